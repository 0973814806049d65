"""What a method of tuning puts onto a model of some shape: the tensors that are trained, and what stands frozen beside them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isqrt
from typing import Any

from pipeline.plan.memory.shape import Linear, Shape, UnknownShape, selected

Tensor = tuple[int, int, int]  # rows, columns, how many of them; a vector has one row
FLOAT = 4  # bytes of an adapter's number, on whatever base

# Where PEFT puts an adapter when the recipe does not say (peft.utils.constants), by the kind of model.
_BY_PEFT = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text")
_QUERIES = dict.fromkeys(_BY_PEFT, ("q_proj", "v_proj"))
_FACTORS = dict.fromkeys(_BY_PEFT, ("q_proj", "v_proj", "down_proj")) | dict.fromkeys(
    ("llama", "mistral"), ("k_proj", "v_proj", "down_proj")
)
_NORMS: dict[str, tuple[str, ...]] = dict.fromkeys(
    ("llama", "mistral", "gemma"), ("input_layernorm", "post_attention_layernorm", "norm")
)
_NORMS |= dict.fromkeys(("qwen2", "qwen3"), ("post_attention_layernorm",))
_NORMS |= dict.fromkeys(
    ("gemma2", "gemma3_text"),
    (*_NORMS["gemma"], "pre_feedforward_layernorm", "post_feedforward_layernorm"),
)


@dataclass(frozen=True)
class Tuned:
    """What is trained, in tensors; `size` is the bytes of one of their numbers."""

    tensors: tuple[Tensor, ...]
    size: int
    frozen: int = 0  # bytes of what the method keeps beside, not trained
    adapted: Mapping[str, int] = field(
        default_factory=dict
    )  # by linear layer the numbers a token that stand between A and B
    whole: bool = False  # whether weights of the model itself are trained
    layers: int | None = None  # of those the last so many; None: all
    positions: int = 0  # virtual tokens before the text
    tokens: int = 0  # of the vocabulary that are trained beside
    products: int = 0  # bytes a layer that are as large as weights: a method that multiplies its factors out

    @property
    def numbers(self) -> int:
        return sum(rows * columns * count for rows, columns, count in self.tensors)

    @property
    def bytes(self) -> int:
        return self.size * self.numbers


def tuned(
    method: str, fields: Mapping[str, Any], shape: Shape, size: int, *, score: bool = False, tokens: int = 0
) -> Tuned:
    """What `method` with these settings trains of a model whose own numbers have `size` bytes.

    `score` adds the head of a reward model, `tokens` so many of the vocabulary, in the embeddings and in a head of their own.
    Raises UnknownShape where no such layers are known.
    """
    if method in ("full", "freeze"):
        return _of_the_model(None if method == "full" else int(fields["layers"]), shape, size, score=score)
    if method not in _METHODS:
        raise UnknownShape(f"what {method} trains of a model is not known here")
    made = _METHODS[method](dict(fields), shape)
    more = [(1, shape.width, 1)] if score else []
    kept = fields.get("modules_to_save") or ()
    more += [(shape.vocabulary, shape.width, 1)] if {"embed_tokens", "lm_head"} & {*kept} else []
    if {"embed_tokens", "lm_head"} <= {*kept}:
        more += [(shape.vocabulary, shape.width, 1)]
    more += [(tokens, shape.width, 1 if shape.tied or score else 2)] if tokens else []
    return Tuned(**vars(made) | {"tensors": (*made.tensors, *more), "tokens": tokens})


def _of_the_model(layers: int | None, shape: Shape, size: int, *, score: bool) -> Tuned:
    count = shape.layers if layers is None else min(layers, shape.layers)
    tensors = [(one.outputs, one.inputs, count) for one in shape.linears]
    tensors += [(1, one.outputs, count) for one in shape.linears if one.bias]
    tensors += [(1, numbers, count) for numbers in shape.norms.values()]
    if layers is None:
        tensors += [(shape.vocabulary, shape.width, 1 if shape.tied else 2), (1, shape.width, 1)]
    tensors += [(1, shape.width, 1)] if score else []
    return Tuned(tuple(tensors), size, whole=True, layers=layers)


def _targets(
    fields: Mapping, shape: Shape, defaults: Mapping[str, tuple[str, ...]] = _QUERIES
) -> list[tuple[Linear, int]]:
    """The adapted linear layers, each with how many there are of it."""
    names = fields.get("target_modules") or _default(shape, defaults)
    left_out = {str(name).rpartition(".")[2] for name in fields.get("exclude_modules") or ()}
    found = [one for one in selected(shape, names, head=True) if one.name not in left_out]
    if not found:
        raise UnknownShape(f"adapter.target_modules: {names} are no linear layers of it that are known here")
    only = fields.get("layers_to_transform")
    layers = shape.layers if only is None else 1 if isinstance(only, int) else len(only)
    return [(one, 1 if one.name == "lm_head" else layers) for one in found]


def _default(shape: Shape, defaults: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    if shape.model_type not in defaults:
        raise UnknownShape(f"adapter.target_modules has to be named for {shape.model_type} models")
    return defaults[shape.model_type]


def _lora(fields: Mapping, shape: Shape) -> Tuned:
    tensors: list[Tensor] = []
    adapted, frozen, products, patterns = {}, 0, 0, fields.get("rank_pattern") or {}
    for one, count in _targets(fields, shape):
        rank = int(
            next((value for key, value in patterns.items() if key.rpartition(".")[2] == one.name), fields.get("r", 8))
        )
        adapted[one.name] = rank
        tensors += [(rank, one.inputs, count), (one.outputs, rank, count)]
        if fields.get("lora_bias"):
            tensors.append((1, one.outputs, count))
        if fields.get("use_dora"):
            tensors.append((1, one.outputs, count))
            products += FLOAT * one.numbers if one.name != "lm_head" else 0
        if str(fields.get("init_lora_weights")).lower().startswith(("pissa", "olora")):
            frozen += FLOAT * rank * (one.inputs + one.outputs) * count  # what it begins with stays beside
    return Tuned(tuple(tensors), FLOAT, frozen, adapted, products=products)


def _adalora(fields: Mapping, shape: Shape) -> Tuned:
    rank, targets = int(fields.get("init_r", 12)), _targets(fields, shape)
    tensors = [
        tensor
        for one, count in targets
        for tensor in ((rank, one.inputs, count), (one.outputs, rank, count), (1, rank, count))
    ]
    # Three running figures of how much each number matters stand beside.
    frozen = 3 * FLOAT * sum(rows * columns * count for rows, columns, count in tensors)
    return Tuned(tuple(tensors), FLOAT, frozen, {one.name: rank for one, _ in targets})


def _ia3(fields: Mapping, shape: Shape) -> Tuned:
    inside = fields.get("feedforward_modules") or (() if fields.get("target_modules") else ("down_proj",))
    targets = _targets(fields, shape, _FACTORS)
    tensors = [(1, one.inputs if one.name in inside else one.outputs, count) for one, count in targets]
    return Tuned(tuple(tensors), FLOAT, adapted={one.name: 0 for one, _ in targets})


def _ln_tuning(fields: Mapping, shape: Shape) -> Tuned:
    names = fields.get("target_modules") or _default(shape, _NORMS)
    tensors = [(1, numbers, shape.layers) for name, numbers in shape.norms.items() if name in names]
    return Tuned((*tensors, *([(1, shape.width, 1)] if "norm" in names else [])), FLOAT)


def _bitfit(fields: Mapping, shape: Shape) -> Tuned:
    tensors = [(1, one.outputs, shape.layers) for one in shape.linears if one.bias]
    if not tensors:
        raise UnknownShape("it has no biases to train")
    return Tuned(tuple(tensors), FLOAT)


def _vera(fields: Mapping, shape: Shape) -> Tuned:
    rank, targets = int(fields.get("r", 256)), _targets(fields, shape)
    tensors = [tensor for one, count in targets for tensor in ((1, rank, count), (1, one.outputs, count))]
    widest = max(one.inputs for one, _ in targets) + max(one.outputs for one, _ in targets)
    return Tuned(tuple(tensors), FLOAT, FLOAT * rank * widest, {one.name: 2 * rank for one, _ in targets})


def _oft(fields: Mapping, shape: Shape) -> Tuned:
    block, targets = int(fields.get("oft_block_size", 32)), _targets(fields, shape)
    turns = block * (block - 1) // 2
    tensors = [(1 if fields.get("block_share") else one.inputs // block, turns, count) for one, count in targets]
    return Tuned(tuple(tensors), FLOAT, adapted={one.name: one.inputs for one, _ in targets})


def _boft(fields: Mapping, shape: Shape) -> Tuned:
    block, factor, targets = (
        int(fields.get("boft_block_size", 4)),
        int(fields.get("boft_n_butterfly_factor", 1)),
        _targets(fields, shape),
    )
    tensors = [
        tensor for one, count in targets for tensor in ((factor * one.inputs, block, count), (1, one.outputs, count))
    ]
    # Permutations stand beside as whole matrices; rotations, turned and scaled weights are multiplied out.
    frozen = sum(FLOAT * factor * one.inputs**2 * count for one, count in targets)
    products = sum(FLOAT * (2 * one.numbers + (1 + factor) * one.inputs**2) for one, _ in targets)
    return Tuned(tuple(tensors), FLOAT, frozen, products=products)


def _hra(fields: Mapping, shape: Shape) -> Tuned:
    rank, targets = int(fields.get("r", 8)), _targets(fields, shape)
    # Each reflection is multiplied with those before it, and keeps what it is multiplied with.
    squares = 1 if fields.get("apply_GS") else 1 + rank
    products = sum(FLOAT * (one.numbers + squares * one.inputs**2) for one, _ in targets)
    return Tuned(tuple((one.inputs, rank, count) for one, count in targets), FLOAT, products=products)


def _miss(fields: Mapping, shape: Shape) -> Tuned:
    rank, targets = int(fields.get("r", 64)), _targets(fields, shape)
    tensors = tuple((rank, one.outputs, count) for one, count in targets)
    return Tuned(tensors, FLOAT, adapted={one.name: rank for one, _ in targets})


def _loha(fields: Mapping, shape: Shape) -> Tuned:
    rank, targets = int(fields.get("r", 8)), _targets(fields, shape)
    tensors = [
        tensor for one, count in targets for tensor in ((one.outputs, rank, 2 * count), (rank, one.inputs, 2 * count))
    ]
    return Tuned(tuple(tensors), FLOAT, products=sum(3 * FLOAT * one.numbers for one, _ in targets))


def _lokr(fields: Mapping, shape: Shape) -> Tuned:
    rank, factor, targets = int(fields.get("r", 8)), int(fields.get("decompose_factor", -1)), _targets(fields, shape)
    tensors: list[Tensor] = []
    for one, count in targets:
        (m1, m2), (n1, n2) = _factors(one.inputs, factor), _factors(one.outputs, factor)
        small = fields.get("decompose_both") and rank < max(n1, m1) / 2
        tensors += [(n1, rank, count), (rank, m1, count)] if small else [(n1, m1, count)]
        large = rank < max(n2, m2) / 2
        tensors += [(n2, rank, count), (rank, m2, count)] if large else [(n2, m2, count)]
    return Tuned(tuple(tensors), FLOAT, products=sum(2 * FLOAT * one.numbers for one, _ in targets))


def _factors(number: int, wanted: int) -> tuple[int, int]:
    """Two that multiply to it, the smaller first: `wanted` where it divides, else as near to each other as may be."""
    if wanted > 0 and number % wanted == 0:
        return min(wanted, number // wanted), max(wanted, number // wanted)
    most = isqrt(number) if wanted <= 0 else min(wanted, isqrt(number))
    one = next(one for one in range(most, 0, -1) if number % one == 0)
    return one, number // one


def _bottleneck(fields: Mapping, shape: Shape) -> Tuned:
    inner = max(1, shape.width // int(fields.get("reduction_factor", 16)))
    count = shape.layers * (1 if fields.get("placement") == "pfeiffer" else 2)
    tensors = ((inner, shape.width, count), (shape.width, inner, count), (1, inner, count), (1, shape.width, count))
    between = {"o_proj": inner, "down_proj": inner}
    return Tuned(tensors, FLOAT, adapted={} if fields.get("placement") == "pfeiffer" else between)


def _prefix(fields: Mapping, shape: Shape) -> Tuned:
    tokens, numbers = int(fields["num_virtual_tokens"]), shape.layers * 2 * shape.keys
    tensors = [(tokens, numbers, 1)]
    if fields.get("prefix_projection"):
        inner = int(fields.get("encoder_hidden_size") or shape.width)
        tensors = [(tokens, shape.keys, 1), (inner, shape.keys, 1), (1, inner, 1), (numbers, inner, 1), (1, numbers, 1)]
    return Tuned(tuple(tensors), FLOAT, positions=tokens)


def _prompt(fields: Mapping, shape: Shape) -> Tuned:
    tokens = int(fields["num_virtual_tokens"])
    return Tuned(((tokens, shape.width, 1),), FLOAT, positions=tokens)


def _p_tuning(fields: Mapping, shape: Shape) -> Tuned:
    tokens, inner = int(fields["num_virtual_tokens"]), int(fields.get("encoder_hidden_size") or shape.width)
    network = [(inner, shape.width, 1), (inner, inner, 1), (shape.width, inner, 1), (1, inner, 2), (1, shape.width, 1)]
    return Tuned(((tokens, shape.width, 1), *network), FLOAT, positions=tokens)


_METHODS: dict[str, Callable[[Mapping, Shape], Tuned]] = {
    "lora": _lora,
    "adalora": _adalora,
    "ia3": _ia3,
    "ln_tuning": _ln_tuning,
    "bitfit": _bitfit,
    "vera": _vera,
    "oft": _oft,
    "boft": _boft,
    "hra": _hra,
    "miss": _miss,
    "loha": _loha,
    "lokr": _lokr,
    "bottleneck": _bottleneck,
    "prefix": _prefix,
    "prompt": _prompt,
    "p_tuning": _p_tuning,
}
