"""LoRAs that are trained in another form than the plain one in which they are kept."""

import copy

import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.tuners.lora import Linear
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn
from transformers import PreTrainedModel

TAKEN = "taken"  # the adapter that takes from the base what the policy began with


def beginning_with_a_part(base: PreTrainedModel, config: LoraConfig) -> PeftModel:
    """The base with the adapter `default` that PEFT's `init_lora_weights` says, and the frozen `taken`, its negative.

    The same base and random state give the same two. Raises ValueError for a module that has no such part.
    """
    how, plain = config.init_lora_weights, copy.copy(config)
    plain.init_lora_weights = True
    model = get_peft_model(base, plain)
    beside = copy.copy(plain)
    beside.lora_dropout, beside.modules_to_save, beside.trainable_token_indices = 0.0, None, None
    model.add_adapter(TAKEN, beside)
    trained = {name for name, one in model.named_parameters() if f".{TAKEN}." not in name and one.requires_grad}
    for name, layer in _layers(model, "default"):
        _begin(layer, name, how)
        layer.set_adapter(["default", TAKEN])
    for name, one in model.named_parameters():
        one.requires_grad_(name in trained)
    model.peft_config["default"].init_lora_weights = how  # how it was begun, for whoever asks
    return model


def _begin(layer: nn.Module, name: str, how: str) -> None:
    if not isinstance(layer, Linear):
        raise ValueError(f"init_lora_weights: {how} is for linear layers, and {name} is none")
    weight = layer.get_base_layer().weight
    before, shapes = weight.data.clone(), [one.shape for one in _both(layer, "default")]
    begin = layer.olora_init if how.lower().startswith("olora") else layer.pissa_init
    begin("default", *([] if begin == layer.olora_init else [how]))
    weight.data = before
    if [one.shape for one in _both(layer, "default")] != shapes:
        raise ValueError(
            f"init_lora_weights: {how} gives {name} fewer than r = {layer.r['default']} ranks; lower adapter.r"
        )
    (a, b), (taken_a, taken_b) = _both(layer, "default"), _both(layer, TAKEN)
    taken_a.data.copy_(a)
    taken_b.data.copy_(-b)


def with_both_parts(model: PeftModel) -> PeftModel:
    """What `beginning_with_a_part` made as one plain LoRA of twice the rank on the base: [A; A0] and [B, -B0]."""
    config = copy.copy(model.peft_config["default"])
    config.r, config.lora_alpha, config.init_lora_weights = 2 * config.r, 2 * config.lora_alpha, True
    config.rank_pattern, config.alpha_pattern = (
        {name: 2 * number for name, number in pattern.items()}
        for pattern in (config.rank_pattern, config.alpha_pattern)
    )
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    for name, tensor in model.named_parameters():
        if "lora_" in name and f".{TAKEN}." in name:
            name = name.replace(f".{TAKEN}.", ".")
            tensors[name] = torch.cat([tensors[name], tensor.data], dim=int("lora_B" in name))
    return as_plain(model, config, tensors)


def as_plain(model: PeftModel, config: LoraConfig, tensors: dict[str, Tensor]) -> PeftModel:
    """The model's base with an adapter of this config and these tensors in place of what was trained."""
    active = model.peft_config["default"]
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    base = model.unload()
    with torch.random.fork_rng():  # what is drawn to begin with is written over
        plain = get_peft_model(base, config)
    found = set_peft_model_state_dict(plain, tensors)
    if missing := [name for name in found.missing_keys if "lora_" in name] + found.unexpected_keys:
        raise RuntimeError(f"the plain form of a {active.peft_type} adapter lacks {missing[0]}")
    return plain


def _layers(model: PeftModel, adapter: str) -> list[tuple[str, nn.Module]]:
    found = model.base_model.model.named_modules()
    return [(name, one) for name, one in found if adapter in getattr(one, "r", {})]


def _both(layer: nn.Module, adapter: str) -> tuple[nn.Parameter, nn.Parameter]:
    return layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
