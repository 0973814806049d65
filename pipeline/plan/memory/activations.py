"""What the layers keep for the backward pass, in bytes, and what they hold for a moment.

Counted tensor by tensor of transformers' 5.17 layers under PEFT 0.21, as autograd saves them; where a number is no count it
was traced (benchmarks/memory.py), and says so. T below is tokens, padding included.
"""

from dataclasses import dataclass

from pipeline.plan.memory.shape import Shape
from pipeline.plan.memory.tuned import Tuned

EAGER = "eager"


@dataclass(frozen=True)
class Pass:
    """Sequences that go through a model together."""

    rows: int
    length: int  # of the longest of them, which all are padded to
    half: bool  # whether it runs in 16 bits; what must be exact is then in fp32 all the same
    attention: str = "sdpa"
    masked: bool = True  # whether some are padded: sdpa then keeps a mask and repeats keys and values
    unsloth: bool = False

    @property
    def tokens(self) -> int:
        return self.rows * self.length

    @property
    def size(self) -> int:
        """Bytes of a number in the stream of the model."""
        return 2 if self.half else 4


def saved_by_layer(shape: Shape, tuned: Tuned, one: Pass) -> int:
    """Bytes that one layer keeps for its backward pass."""
    per_token = _norms(shape, tuned, one) + _attention(shape, tuned, one) + _feed_forward(shape, tuned, one)
    between = sum(rank for name, rank in tuned.adapted.items() if name != "lm_head")
    found = one.tokens * (per_token + one.size * between) + tuned.products
    if one.attention == EAGER:
        scores = one.rows * shape.heads * one.length**2
        found += scores * (6 if one.half else 4)  # fp32 out of the softmax, and again in 16 bits
        found += scores * one.size if shape.soft_cap else 0
    elif one.masked and one.attention == "sdpa":
        found += one.size * one.rows * one.length**2  # the mask as numbers, made anew in each layer
    if one.half and not tuned.whole:  # autocast's copies of the adapter's weights
        found += 2 * (tuned.numbers // shape.layers)
    return found


def _norms(shape: Shape, tuned: Tuned, one: Pass) -> int:
    """Of one token. A norm keeps what goes in, in fp32; where its weight is trained also what it made of it."""
    keeps = 4 + 4 / one.length
    if tuned.whole:
        keeps += 4 if shape.family.float_norm or not one.half else 2
    wide = keeps * shape.width * shape.family.norms
    if shape.family.head_norms or shape.family.wide_norms:
        wide += keeps * (shape.queries + shape.keys)
    return int(wide)


def _inputs(names: tuple[str, ...], tuned: Tuned, one: Pass) -> int:
    """How often what goes into these linear layers is kept.

    A trained weight needs it, once for all; a frozen one does not. An adapter in fp32 needs it, and in 16 bits each one casts it anew.
    """
    if tuned.whole:
        return 1
    adapted = sum(name in tuned.adapted for name in names)
    return adapted if one.half else min(adapted, 1)


def _attention(shape: Shape, tuned: Tuned, one: Pass) -> int:
    """Of one token: inputs, queries, keys, values, and what comes out, which is what goes on."""
    repeated = shape.queries if one.masked or one.attention == EAGER else shape.keys
    numbers = shape.width * _inputs(("q_proj", "k_proj", "v_proj"), tuned, one)
    numbers += shape.queries + 2 * repeated + shape.queries
    if one.half and not tuned.whole and one.attention != EAGER:
        numbers += shape.queries * _inputs(("o_proj",), tuned, one)  # a copy of its own
    return one.size * numbers + (4 * shape.heads if one.attention != EAGER else 0)


def _feed_forward(shape: Shape, tuned: Tuned, one: Pass) -> int:
    """Of one token: inputs, gate, up, the activated gate, and their product."""
    numbers = shape.width * _inputs(("gate_proj", "up_proj"), tuned, one)
    numbers += 3 * shape.inner + shape.inner * _inputs(("down_proj",), tuned, one)
    return one.size * numbers


def between_layers(shape: Shape, one: Pass) -> int:
    """What stands between two layers: all that checkpointing keeps of one. Unsloth keeps it in the host's memory."""
    return 0 if one.unsloth else one.size * one.tokens * shape.width


def backward_of_layer(shape: Shape, tuned: Tuned, one: Pass) -> int:
    """What a layer's backward pass holds beside what is kept: gradients on their way (traced)."""
    if tuned.whole:
        each = 4 * shape.width + 2 * one.size * shape.inner
    elif one.half:  # an adapter in fp32 casts its gradients back
        each = 10 * shape.width + 6 * shape.inner
    else:
        each = 4 * shape.width + 8 * shape.inner
    return one.tokens * each


def forward_of_layer(shape: Shape, tuned: Tuned, one: Pass) -> int:
    """What a layer holds while nothing is kept (traced)."""
    adapted = bool(tuned.adapted)
    numbers = 4 * shape.width + (4 if adapted else 3) * shape.inner
    held = one.tokens * (one.size * numbers + (4 * shape.width if adapted and one.half else 0))
    scores = one.rows * shape.heads * one.length**2 * (one.size + 4) if one.attention == EAGER else 0
    return held + scores


def cache(shape: Shape, rows: int, length: int, half: bool) -> int:
    """Keys and values of so many sequences, of all layers."""
    return 2 * shape.layers * shape.keys * rows * length * (2 if half else 4)
