"""LoRAs that are trained in another form than the plain one in which they are kept."""

import copy
import dataclasses

import torch
from peft import AdaLoraConfig, AdaLoraModel, LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.lora import Linear
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn
from transformers import PreTrainedModel

TAKEN = "taken"  # the adapter that takes from the base what the policy began with
_MEASURES = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # what PEFT's allocator measures of each parameter


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


class Adaptive(AdaLoraModel):
    """AdaLoRA without the penalty that PEFT adds to a model's own loss, and to no trainer's; see `Allocation.penalty`."""

    def forward(self, *args, **kwargs):
        return self.model.forward(*args, **kwargs)


def adaptive(base: PreTrainedModel, config: AdaLoraConfig) -> PeftModel:
    """AdaLoRA on a base."""
    model = get_peft_model(base, config)
    model.base_model.__class__ = Adaptive
    for _, layer in _layers(model, "default"):  # among the parameters a number that is not saved would be missed
        layer.ranknum = BufferDict({"default": layer.ranknum["default"].data}, persistent=False)
    return model


class Allocation:
    """AdaLoRA beside the optimizer: which ranks matter is looked at in each step, and the others are set to 0.

    In the last `tfinal` steps they stay as they are, and in the first `tinit`; see `AdaLora.too_short`.
    """

    def __init__(self, model: PeftModel, steps: int):
        self._config = config = model.peft_config["default"]
        config.total_step = steps
        self._model, self._allocator = model.base_model.model, model.base_model.rankallocator
        self._left: dict[str, list[bool]] = {}  # of each E the ranks that are there

    def penalty(self) -> Tensor:
        """How far A and B are from orthogonal, as PEFT has it: the mean over both of all layers of the Frobenius norms of
        A A' - I and B' B - I, times `orth_reg_weight`. Once for each step, whatever the loss.
        """
        found = []
        for name, one in self._model.named_parameters():
            if "lora_A.default" in name or "lora_B.default" in name:
                product = one @ one.T if "lora_A" in name else one.T @ one
                found.append(torch.linalg.matrix_norm(product - torch.eye(len(product), device=one.device)))
        return self._config.orth_reg_weight * torch.stack(found).mean()

    def stepped(self, step: int) -> None:
        """After the optimizer's step of this number, from 1, while the gradients are there. PEFT's own keeps which ranks are
        left in the adapter's settings, and saves the others no more: then no run could go on.
        """
        last = self._config.total_step - self._config.tfinal
        if step > last:
            self._allocator.mask_using_rank_pattern(self._model, self._left)
            return
        _, left = self._allocator.update_and_allocate(self._model, step, force_mask=step == last)
        self._left = left or self._left
        if step == last:
            self._allocator.reset_ipt()

    def kept(self) -> dict[str, Tensor]:
        """What a run needs to go on, beside the adapter."""
        found = {f"left/{name}": torch.tensor(ranks) for name, ranks in self._left.items()}
        for what in _MEASURES:
            found |= {f"{what}/{name}": one.contiguous() for name, one in getattr(self._allocator, what).items()}
        return found

    def put(self, tensors: dict[str, Tensor]) -> None:
        """Take over what was kept."""
        places = dict(self._model.named_parameters())
        for key, tensor in tensors.items():
            what, _, name = key.partition("/")
            if what == "left":
                self._left[name] = tensor.tolist()
            else:
                getattr(self._allocator, what)[name] = tensor.to(places[name].device)


def with_the_ranks_left(model: PeftModel) -> PeftModel:
    """AdaLoRA as a plain LoRA: E and all scales go into A, and each layer has the ranks of which E is not 0, or one."""
    config, tensors = model.peft_config["default"], get_peft_model_state_dict(model, save_embedding_layers=False)
    ranks = {}
    for name, layer in _layers(model, "default"):
        place = f"base_model.model.{name}.lora_"
        weight, a, b = tensors.pop(place + "E"), tensors.pop(place + "A"), tensors.pop(place + "B")
        left = weight.flatten() != 0
        left[0] |= not left.any()
        scale = layer.scaling["default"] / (layer.ranknum["default"] + 1e-5)  # PEFT's own
        tensors |= {place + "A.weight": (a * weight * scale)[left], place + "B.weight": b[:, left]}
        ranks[name] = int(left.sum())
    names = {one.name for one in dataclasses.fields(LoraConfig)} - {"peft_type"}
    plain = LoraConfig(**{name: getattr(config, name) for name in names})
    plain.r = plain.lora_alpha = config.target_r
    plain.rank_pattern, plain.alpha_pattern = ranks, dict(ranks)  # every scale is 1
    return as_plain(model, plain, tensors)


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
