"""What the logits and the loss over them hold at their peak, in bytes.

The numbers are bytes for each pair of a token and a word of the vocabulary. All but those marked otherwise were traced on TRL
1.14.2's and transformers' own functions (benchmarks/memory.py); the logits come out in fp32, also under autocast.
"""

CHUNKED, WHOLE, SELECTED, SELECTED_AND_WHOLE, IN_PIECES, FUSED, NONE = (
    "chunked",
    "whole",
    "selected",
    "selected and whole",
    "in pieces",
    "fused",
    "none",
)
CHUNK = 256  # tokens that TRL's chunked loss takes at a time
PIECE = 64 << 20  # bytes of fp32 logits that the loop of our own takes at a time
_CHUNKED = _IN_PIECES = 16
_WHOLE = 12  # log-softmax, its gradient and that of the logits
# TRL's function on a CPU; on a GPU its Triton kernel needs the logits and their gradient alone (read, not measured).
_SELECTED, _SELECTED_KERNEL = 16, 8
_SELECTED_AND_WHOLE, _SELECTED_AND_WHOLE_KERNEL = 18, 12
_FUSED = 4  # Unsloth's: 16-bit logits and their gradient, in place and by chunks (read, not measured)


def logits(kind: str, tokens: int, vocabulary: int, *, gpu: bool) -> int:
    """Bytes at the peak of a loss of this kind over so many tokens."""
    if kind == NONE:
        return 0
    if kind == CHUNKED:
        return _CHUNKED * CHUNK * vocabulary
    if kind == IN_PIECES:
        return _IN_PIECES * min(max(PIECE // (4 * vocabulary), 1), tokens) * vocabulary
    each = {
        WHOLE: _WHOLE,
        SELECTED: _SELECTED_KERNEL if gpu else _SELECTED,
        SELECTED_AND_WHOLE: _SELECTED_AND_WHOLE_KERNEL if gpu else _SELECTED_AND_WHOLE,
        FUSED: _FUSED,
    }
    return each[kind] * tokens * vocabulary
