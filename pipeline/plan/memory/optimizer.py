"""What an optimizer keeps of each trained number, in bytes on the GPU."""

from collections.abc import Sequence

# Numbers that transformers' optimizers keep for each trained one, each in the dtype of that one (torch) or in fp32.
_TORCH = {"adamw_torch": 2, "adamw_torch_fused": 2, "stable_adamw": 2, "adagrad": 1, "rmsprop": 1, "sgd": 0}
_FP32 = {"ademamix": 3, "lion_32bit": 1, "rmsprop_bnb": 1, "rmsprop_bnb_32bit": 1}
# Those of bitsandbytes in 8 bits: a byte each, and an fp32 scale for each 256 of them.
_8_BIT = {
    "adamw_8bit": 2,
    "adamw_bnb_8bit": 2,
    "ademamix_8bit": 3,
    "lion_8bit": 1,
    "rmsprop_bnb_8bit": 1,
}
_PAGED = "paged_"  # in the host's memory, and on the GPU only while it is used
_BLOCK, _SMALL = 256, 4096  # a tensor of fewer numbers stays in fp32


def known(name: str) -> bool:
    return name.startswith(_PAGED) or name in {
        *_TORCH,
        *_FP32,
        *_8_BIT,
        "adafactor",
        "adamw_torch_8bit",
        "adamw_torch_4bit",
    }


def states(name: str, tensors: Sequence[tuple[int, int, int]], size: int) -> int:
    """Bytes of the states for trained tensors (rows, columns, how many of them); vectors have one row.

    `size` is the bytes of one trained number. An optimizer that is not known here is taken for AdamW.
    """
    return sum(count * _of_one(name, rows, columns, size) for rows, columns, count in tensors)


def _of_one(name: str, rows: int, columns: int, size: int) -> int:
    numbers = rows * columns
    if name.startswith(_PAGED):
        return 0
    if name in _FP32:
        return 4 * _FP32[name] * numbers
    if name in _8_BIT:
        each = _8_BIT[name]
        return each * (4 * numbers if numbers < _SMALL else numbers + 4 * -(-numbers // _BLOCK))
    if name == "adamw_torch_8bit":
        return 2 * (4 * numbers if numbers < _SMALL else numbers + 4 * -(-numbers // _BLOCK))
    if name == "adamw_torch_4bit":
        return 2 * (4 * numbers if numbers < _SMALL else numbers // 2 + 4 * -(-numbers // 128))
    if name == "adafactor":  # of a matrix its rows' and columns' means alone (arXiv:1804.04235)
        return 4 * (rows + columns if rows > 1 else columns)
    return _TORCH.get(name, 2) * size * numbers
