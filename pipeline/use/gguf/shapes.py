"""The architectures that can be written: which of llama.cpp's they are, their hyperparameters, and how tensors change.

Where llama.cpp computes otherwise than transformers, the weights make up for it: its Llama rotates pairs of neighbours
(so rows of q and k are reordered), its Gemma multiplies by the norm's weight alone (so 1 is added). What a config asks
for and llama.cpp has no key for is refused.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from pipeline.errors import PipelineError

FOR_CONTEXT = "rope_freqs.weight"  # not one of the model's: made from its config


@dataclass(frozen=True)
class Shape:
    arch: str  # as llama.cpp calls it
    interleaved: bool = False  # q and k are rotated in pairs of neighbours
    norm_plus_one: bool = False  # the norm's weight is stored less 1
    plain: Callable[[object], str | None] = lambda config: None  # why a config is not one that llama.cpp computes


def _qwen(config) -> str | None:
    return "use_sliding_window" if getattr(config, "use_sliding_window", False) else None


def _gemma2(config) -> str | None:
    if config.query_pre_attn_scalar != config.head_dim:
        return f"query_pre_attn_scalar {config.query_pre_attn_scalar} (not its head_dim)"
    alternating = [
        "sliding_attention" if number % 2 == 0 else "full_attention" for number in range(len(config.layer_types))
    ]
    return None if list(config.layer_types) == alternating else "layer_types other than every second sliding"


def _gemma3(config) -> str | None:
    if config.query_pre_attn_scalar != config.head_dim:
        return f"query_pre_attn_scalar {config.query_pre_attn_scalar} (not its head_dim)"
    sixth = ["full_attention" if number % 6 == 5 else "sliding_attention" for number in range(len(config.layer_types))]
    if list(config.layer_types) != sixth:
        return "layer_types other than every sixth full"
    local = _rope(config, "sliding_attention")["rope_theta"]
    return None if local == 10_000 else f"rope_theta {local:g} of sliding layers"


SHAPES = {
    "llama": Shape("llama", interleaved=True),
    "mistral": Shape("llama", interleaved=True),
    "qwen2": Shape("qwen2", plain=_qwen),
    "qwen3": Shape("qwen3", plain=_qwen),
    "gemma2": Shape("gemma2", norm_plus_one=True, plain=_gemma2),
    "gemma3_text": Shape("gemma3", norm_plus_one=True, plain=_gemma3),
}


def shape_of(config, name: str) -> Shape:
    """Raises PipelineError, naming it, for an architecture that is not known or a config that it does not cover."""
    shape = SHAPES.get(config.model_type)
    if shape is None:
        raise PipelineError(
            f"{name}: is a {config.model_type} model; as GGUF there are {', '.join(SHAPES)}.",
            "llama.cpp's own converter knows more: name its checkout, LLAMA_CPP=folder.",
        )
    kind = _rope(config).get("rope_type", "default")
    missing = shape.plain(config) or (None if kind in ("default", "linear", "llama3", "yarn") else f"rope_type {kind}")
    act = getattr(config, "hidden_activation", None) or config.hidden_act
    if act != ("gelu_pytorch_tanh" if shape.norm_plus_one else "silu"):
        missing = f"hidden_act {act}"
    if missing:
        raise PipelineError(
            f"{name}: its config has {missing}, which cannot be written as GGUF.",
            "llama.cpp's own converter may know it: name its checkout, LLAMA_CPP=folder.",
        )
    return shape


def write_config(writer, shape: Shape, config) -> None:
    """The hyperparameters, by llama.cpp's keys."""
    heads, head_dim = config.num_attention_heads, head_dim_of(config)
    writer.add_context_length(context(config))
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(head_dim)
    _write_rope(writer, config)
    if shape.arch.startswith("gemma"):
        writer.add_sliding_window(config.sliding_window)
    if shape.arch == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)


def context(config) -> int:
    """Positions. llama.cpp's Llama has no sliding window: a Mistral that has one is exact as far as it reaches."""
    window = getattr(config, "sliding_window", None) if config.model_type == "mistral" else None
    return min(config.max_position_embeddings, window or config.max_position_embeddings)


def head_dim_of(config) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def changed(name: str, tensor: torch.Tensor, shape: Shape, config) -> torch.Tensor:
    """A tensor of transformers as llama.cpp computes with it. Adapters' B of q and k changes as the weight does."""
    if shape.interleaved and ".self_attn." in name:
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        for projection, count in heads.items():
            if f".{projection}." in name:
                return permuted(tensor, count)
    if shape.norm_plus_one and name.endswith("norm.weight"):
        return tensor + 1
    return tensor


def permuted(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of each head from halves (0, d/2, 1, d/2 + 1, ... are rotated together) to neighbours."""
    rows = tensor.shape[0]
    return tensor.view(heads, 2, rows // heads // 2, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)


def rope_factors(config) -> torch.Tensor | None:
    """(head_dim / 2,) float32: by how much Llama 3.1 slows each frequency, after its rope_type "llama3".

    Source: the reference code of https://github.com/meta-llama/llama-models, `apply_scaling`.
    """
    rope = _rope(config)
    if rope.get("rope_type") != "llama3":
        return None
    dim = head_dim_of(config)
    lengths = 2 * math.pi * rope["rope_theta"] ** (torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    old = rope["original_max_position_embeddings"]
    share = ((old / lengths - low) / (high - low)).clamp(0, 1)  # 1: as it was; 0: slowed in full
    return (1 / ((1 - share) / rope["factor"] + share)).float()


def _write_rope(writer, config) -> None:
    from gguf import RopeScalingType

    rope = _rope(config)
    writer.add_rope_freq_base(rope["rope_theta"])
    kind = rope.get("rope_type", "default")
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(RopeScalingType(kind))
        writer.add_rope_scaling_factor(rope["factor"])
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])


def _rope(config, layers: str = "full_attention") -> dict:
    """Of Gemma 3 there are two, one a kind of layer."""
    rope = config.rope_parameters
    return rope.get(layers, rope)
