"""BitFit as a tuner of PEFT's, which has none: to import this file is to teach PEFT the type `BITFIT`.

BitFit (Ben Zaken et al., 2022, arXiv:2106.10199) trains the biases that a model has, and nothing else. Here each adapter adds a
vector to what a module with a bias yields, which is that bias moved: the gradients are the same, the base stays as it is,
and several stand on one base. PEFT's `bias="all"` moves the base's own. The file stands by itself: whoever has torch and PEFT
can load an adapter with it.
"""

from dataclasses import dataclass
from enum import StrEnum

import torch
from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn


class _Type(StrEnum):
    """Like PeftType, which takes no further member; PEFT asks such a type for its value."""

    BITFIT = "BITFIT"


@dataclass
class BitFitConfig(PeftConfig):
    """`target_modules` are names of modules with a bias; all that have one where none is named."""

    target_modules: list[str] | None = None
    exclude_modules: list[str] | None = None
    modules_to_save: list[str] | None = None

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = _Type.BITFIT


class BiasLayer(nn.Module, BaseTunerLayer):
    """A module with a bias, and for each adapter what is added to it."""

    adapter_layer_names = ("bitfit_bias",)

    def __init__(self, base_layer: nn.Module):
        super().__init__()
        self.base_layer, self.bitfit_bias = base_layer, nn.ParameterDict()
        self._disable_adapters, self.merged_adapters = False, []

    def update_layer(self, name: str, config: BitFitConfig) -> None:
        """Give the adapter `name` a vector here, which adds nothing yet; in float32, for small steps to count."""
        self.bitfit_bias[name] = nn.Parameter(torch.zeros(self.get_base_layer().bias.shape))
        self._move_adapter_to_device_of_base_layer(name, self.get_base_layer().bias.device)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, *args, **kwargs) -> Tensor:
        out = self.base_layer(*args, **kwargs)
        if self.disable_adapters or self.merged:
            return out
        added = [self.bitfit_bias[name] for name in self.active_adapters if name in self.bitfit_bias]
        return (out + sum(added)).to(out.dtype) if added else out

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        for name in check_adapters_to_merge(self, adapter_names):
            if name in self.bitfit_bias:
                bias = self.get_base_layer().bias
                bias.data = (bias.data + self.bitfit_bias[name].data).to(bias.dtype)
                self.merged_adapters.append(name)

    def unmerge(self) -> None:
        while self.merged_adapters:
            bias = self.get_base_layer().bias
            bias.data = (bias.data - self.bitfit_bias[self.merged_adapters.pop()].data).to(bias.dtype)


class BitFitModel(BaseTuner):
    """Puts them in. Raises ValueError for a model without biases."""

    prefix = "bitfit_"
    tuner_layer_cls = BiasLayer

    def _prepare_adapter_config(self, peft_config: BitFitConfig, model_config: dict) -> BitFitConfig:
        return peft_config  # `_prepare_model` finds the biases

    def _prepare_model(self, peft_config: BitFitConfig, model: nn.Module) -> None:
        if peft_config.target_modules is None:
            found = (name.rpartition(".")[2] for name, one in model.named_modules() if _has_bias(one))
            peft_config.target_modules = sorted(set(found) - {"base_layer"})
        if not peft_config.target_modules:
            raise ValueError(
                f"bitfit trains biases, and this {model.config.model_type} model has none; ln_tuning comes nearest"
            )

    def _create_and_replace(self, config, adapter_name, target, target_name, parent, current_key) -> None:
        if isinstance(target, BiasLayer):
            target.update_layer(adapter_name, config)
        elif _has_bias(target):  # modules of one name have one in some layers, and none in others
            layer = BiasLayer(target)
            layer.update_layer(adapter_name, config)
            if adapter_name not in self.active_adapters:
                layer.requires_grad_(False)
            self._replace_module(parent, target_name, layer, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        setattr(parent, child_name, new_module)


def _has_bias(module: nn.Module) -> bool:
    return isinstance(getattr(module, "bias", None), nn.Parameter)


# What peft.utils.register_peft_method does for members of PeftType.
PEFT_TYPE_TO_CONFIG_MAPPING[_Type.BITFIT] = BitFitConfig
PEFT_TYPE_TO_TUNER_MAPPING[_Type.BITFIT] = BitFitModel
PEFT_TYPE_TO_PREFIX_MAPPING[_Type.BITFIT] = BitFitModel.prefix
