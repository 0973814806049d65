"""The sizes of a model, as its config.json gives them: what its layers consist of, and how many numbers that is."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

NEEDED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")


class UnknownShape(ValueError):
    """Why a config tells no sizes."""


@dataclass(frozen=True)
class Family:
    """What a kind of model has that its config does not say."""

    norms: int = 2  # of the model's width, in each layer
    norm_before: bool = True  # whether the blocks are normed before (and, with four norms, also behind)
    head_norms: bool = False  # whether queries and keys are normed, each head by itself
    wide_norms: bool = False  # whether they are over all heads at once
    biases: tuple[str, ...] = ()  # linear layers that always have one
    bias_keys: tuple[str, ...] = ("attention_bias",)  # keys of the config that give some
    float_norm: bool = False  # whether a norm's weight is multiplied in fp32
    tied: bool = False  # where the config does not say
    head_dim: int | None = None  # where the config does not say; None: width over heads


_LLAMA = Family(bias_keys=("attention_bias", "mlp_bias"))
_GEMMA = Family(float_norm=True, tied=True, head_dim=256)
FAMILIES: dict[str, Family] = {
    "llama": _LLAMA,
    "mistral": Family(bias_keys=()),
    "granite": _LLAMA,
    "smollm3": _LLAMA,
    "qwen2": Family(biases=("q_proj", "k_proj", "v_proj"), bias_keys=()),
    "qwen3": Family(head_norms=True, head_dim=128),
    "olmo2": Family(wide_norms=True, norm_before=False),
    "gemma": _GEMMA,
    "gemma2": Family(norms=4, float_norm=True, tied=True, head_dim=256),
    "gemma3_text": Family(norms=4, float_norm=True, tied=True, head_dim=256, head_norms=True),
}


@dataclass(frozen=True)
class Linear:
    """One linear layer: its name within a layer, how many numbers go in and come out, and whether it has a bias."""

    name: str
    inputs: int
    outputs: int
    bias: bool = False

    @property
    def numbers(self) -> int:
        return self.inputs * self.outputs


@dataclass(frozen=True)
class Shape:
    """A decoder of equal layers: attention with grouped keys and values, and a gated feed-forward block."""

    model_type: str
    family: Family
    layers: int
    width: int
    heads: int
    key_heads: int
    head_dim: int
    inner: int
    vocabulary: int
    tied: bool
    biased: frozenset[str]
    soft_cap: bool = False  # whether eager attention squashes its scores
    soft_logits: bool = False  # whether the logits are squashed

    @property
    def queries(self) -> int:
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        return self.key_heads * self.head_dim

    @property
    def linears(self) -> tuple[Linear, ...]:
        """Of one layer."""
        sizes = {
            "q_proj": (self.width, self.queries),
            "k_proj": (self.width, self.keys),
            "v_proj": (self.width, self.keys),
            "o_proj": (self.queries, self.width),
            "gate_proj": (self.width, self.inner),
            "up_proj": (self.width, self.inner),
            "down_proj": (self.inner, self.width),
        }
        return tuple(Linear(name, *size, name in self.biased) for name, size in sizes.items())

    @property
    def head(self) -> Linear:
        return Linear("lm_head", self.width, self.vocabulary)

    @property
    def norms(self) -> dict[str, int]:
        """The numbers of each norm of one layer."""
        names = ["input_layernorm", "post_attention_layernorm"]
        if self.family.norms == 4:
            names += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
        elif not self.family.norm_before:
            names = ["post_attention_layernorm", "post_feedforward_layernorm"]
        found = dict.fromkeys(names, self.width)
        if self.family.head_norms:
            found |= {"q_norm": self.head_dim, "k_norm": self.head_dim}
        if self.family.wide_norms:
            found |= {"q_norm": self.queries, "k_norm": self.keys}
        return found

    @property
    def in_a_layer(self) -> int:
        """Parameters of one layer."""
        return sum(one.numbers + (one.outputs if one.bias else 0) for one in self.linears) + sum(self.norms.values())

    @property
    def outside(self) -> int:
        """Parameters outside of the layers: the embeddings, the last norm, and a head that is apart."""
        return self.embeddings + self.width + (0 if self.tied else self.head.numbers)

    @property
    def embeddings(self) -> int:
        return self.vocabulary * self.width

    @property
    def parameters(self) -> int:
        return self.layers * self.in_a_layer + self.outside

    def without_head(self) -> "Shape":
        """As a reward model is: its embeddings are there once, and it has no logits."""
        return replace(self, tied=True)


def shape_of(config: Mapping[str, Any], vocabulary: int | None = None) -> Shape:
    """The sizes that a config.json gives; `vocabulary` where it leaves that to the tokenizer.

    Raises UnknownShape for an architecture that is not known here, and for keys that are missing or no numbers.
    """
    kind = config.get("model_type")
    if not kind:
        raise UnknownShape("its config.json has no model_type")
    if kind not in FAMILIES:
        raise UnknownShape(f"the sizes of {kind} models are not known here (those of {', '.join(FAMILIES)} are)")
    family = FAMILIES[kind]
    config = {"vocab_size": vocabulary} | dict(config)
    sizes = {key: _whole(config, key) for key in NEEDED}
    heads = sizes["num_attention_heads"]
    head_dim = _whole(config, "head_dim", family.head_dim or sizes["hidden_size"] // heads)
    biased = set(family.biases)
    if "attention_bias" in family.bias_keys and config.get("attention_bias"):
        biased |= {"q_proj", "k_proj", "v_proj", "o_proj"}
    if "mlp_bias" in family.bias_keys and config.get("mlp_bias"):
        biased |= {"gate_proj", "up_proj", "down_proj"}
    return Shape(
        model_type=str(kind),
        family=family,
        layers=sizes["num_hidden_layers"],
        width=sizes["hidden_size"],
        heads=heads,
        key_heads=_whole(config, "num_key_value_heads", heads),
        head_dim=head_dim,
        inner=sizes["intermediate_size"],
        vocabulary=sizes["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", family.tied)),
        biased=frozenset(biased),
        soft_cap=bool(config.get("attn_logit_softcapping", kind == "gemma2")),
        soft_logits=bool(config.get("final_logit_softcapping", kind == "gemma2")),
    )


def _whole(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key)
    value = default if value is None else value
    if value is None:
        raise UnknownShape(f"its config.json has no {key}")
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UnknownShape(f"{key} in its config.json is {value!r}, and should be a whole number of at least 1")
    return value


def selected(shape: Shape, names: object, *, head: bool = False) -> Iterator[Linear]:
    """The linear layers that adapter.target_modules means, in every layer; `all-linear` leaves out the head."""
    everything = [*shape.linears, *([shape.head] if head else [])]
    if isinstance(names, str) and names.lower() == "all-linear":
        yield from shape.linears
    elif isinstance(names, str):
        for one in everything:
            room = "self_attn" if one.name in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
            path = one.name if one is everything[-1] and head else f"model.layers.0.{room}.{one.name}"
            if re.fullmatch(names, path):
                yield one
    else:
        ends = {str(name).rpartition(".")[2] for name in (names if isinstance(names, list | tuple) else ())}
        yield from (one for one in everything if one.name in ends)
