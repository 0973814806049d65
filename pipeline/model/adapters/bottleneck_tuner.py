"""Bottleneck adapters as a tuner of PEFT's, which has none: to import this file is to teach PEFT the type `BOTTLENECK`.

Behind a block of each layer comes a small network with a residual connection, h + W_up f(W_down h + b_down) + b_up:
behind attention and feed-forward (Houlsby et al., 2019, arXiv:1902.00751) or behind the feed-forward alone (Pfeiffer et al.,
2021, arXiv:2005.00247). W_up and b_up begin at zero, so that an adapted model begins as its base. The file stands by itself:
whoever has torch, transformers and PEFT can load an adapter with it.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import Tensor, nn
from transformers.activations import ACT2FN


class _Type(StrEnum):
    """Like PeftType, which takes no further member; PEFT asks such a type for its value."""

    BOTTLENECK = "BOTTLENECK"


# What classes of blocks have in their names, in transformers' models.
ATTENTION = ("Attention",)
FEED_FORWARD = ("MLP", "FeedForward", "FFN", "Moe", "MoE", "Expert")


@dataclass
class BottleneckConfig(PeftConfig):
    """Where the networks stand, and what they are like. `target_modules` are names of blocks, for models whose own are not found."""

    placement: Literal["houlsby", "pfeiffer"] = "houlsby"
    reduction_factor: int = 16  # the model's width over the network's
    activation: Literal["relu", "gelu", "silu", "tanh"] = "relu"
    bottleneck_dropout: float = 0.0  # of what goes into the network
    target_modules: list[str] | None = None
    exclude_modules: list[str] | None = None
    modules_to_save: list[str] | None = None

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = _Type.BOTTLENECK
        if self.reduction_factor < 1:
            raise ValueError(f"reduction_factor must be at least 1, not {self.reduction_factor}")


class BottleneckLayer(nn.Module, BaseTunerLayer):
    """A block with a network behind it for each adapter. Takes and gives what the block does."""

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")
    other_param_names = ("bottleneck_dropout", "bottleneck_activation")

    def __init__(self, base_layer: nn.Module, width: int):
        super().__init__()
        self.base_layer, self.width = base_layer, width
        self.bottleneck_down, self.bottleneck_up = nn.ModuleDict(), nn.ModuleDict()
        self.bottleneck_dropout, self.bottleneck_activation = nn.ModuleDict(), nn.ModuleDict()
        self._disable_adapters, self.merged_adapters = False, []

    def update_layer(self, name: str, config: BottleneckConfig) -> None:
        """Give the block a network for the adapter `name`, which does nothing yet."""
        inner = max(1, self.width // config.reduction_factor)
        self.bottleneck_down[name] = nn.Linear(self.width, inner)
        self.bottleneck_up[name] = nn.Linear(inner, self.width)
        nn.init.zeros_(self.bottleneck_up[name].weight)
        nn.init.zeros_(self.bottleneck_up[name].bias)
        self.bottleneck_dropout[name] = nn.Dropout(config.bottleneck_dropout)
        self.bottleneck_activation[name] = ACT2FN[config.activation]
        place = next((one.device for one in self.get_base_layer().parameters()), None)
        self._move_adapter_to_device_of_base_layer(name, place)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, *args, **kwargs):
        out = self.base_layer(*args, **kwargs)
        if self.disable_adapters:
            return out
        # Attention yields its weights beside, a mixture of experts may yield its router's logits.
        return (self._adapted(out[0]), *out[1:]) if isinstance(out, tuple) else self._adapted(out)

    def _adapted(self, hidden: Tensor) -> Tensor:
        """(..., width), like what goes in."""
        for name in self.active_adapters:
            if name not in self.bottleneck_down:
                continue
            down, up = self.bottleneck_down[name], self.bottleneck_up[name]
            inner = self._cast_input_dtype(self.bottleneck_dropout[name](hidden), down.weight.dtype)
            hidden = hidden + up(self.bottleneck_activation[name](down(inner))).to(hidden.dtype)
        return hidden

    def __getattr__(self, name: str):
        """Models ask their blocks for attributes."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":
                raise
            return getattr(self.base_layer, name)


class BottleneckModel(BaseTuner):
    """Puts the networks behind a model's blocks. Raises ValueError where it has none of the names, or no width."""

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer

    def _prepare_adapter_config(self, peft_config: BottleneckConfig, model_config: dict) -> BottleneckConfig:
        return peft_config  # `_prepare_model` finds the blocks

    def _prepare_model(self, peft_config: BottleneckConfig, model: nn.Module) -> None:
        if peft_config.target_modules is None:
            peft_config.target_modules = blocks_of(model, peft_config.placement)

    def _create_and_replace(self, config, adapter_name, target, target_name, parent, current_key) -> None:
        if isinstance(target, BottleneckLayer):
            target.update_layer(adapter_name, config)
            return
        width = self.model.config.get_text_config().hidden_size
        if getattr(target, "out_features", width) != width:
            raise ValueError(
                f"{current_key} yields {target.out_features} numbers a token and not the model's {width}: a bottleneck "
                "stands behind a whole block"
            )
        layer = BottleneckLayer(target, width)
        layer.update_layer(adapter_name, config)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        setattr(parent, child_name, new_module)

    def _check_merge_allowed(self) -> None:
        raise ValueError("A bottleneck has no merged form: what it computes is no change of any weight.")


def blocks_of(model: nn.Module, placement: str) -> list[str]:
    """The names that the blocks have in a layer, such as self_attn and mlp."""
    layers = model.config.get_text_config().num_hidden_layers
    stack = next(
        (one for one in model.modules() if isinstance(one, nn.ModuleList) and len(one) == layers), nn.ModuleList()
    )
    wanted = {"attention": ATTENTION, "feed-forward": FEED_FORWARD}
    if placement == "pfeiffer":
        del wanted["attention"]
    names: dict[str, None] = {}
    for what, words in wanted.items():
        for number, layer in enumerate(stack):
            found = [name for name, block in layer.named_children() if any(word in _class(block) for word in words)]
            if not found:
                raise ValueError(
                    f"no {what} block is found in layer {number} of this {model.config.model_type} model; name its blocks "
                    "in adapter.target_modules"
                )
            names |= dict.fromkeys(found)
    if not names:
        raise ValueError(f"the layers of a {model.config.model_type} model are not found")
    return list(names)


def _class(block: nn.Module) -> str:
    return type(block.base_layer if isinstance(block, BottleneckLayer) else block).__name__


# What peft.utils.register_peft_method does for members of PeftType.
PEFT_TYPE_TO_CONFIG_MAPPING[_Type.BOTTLENECK] = BottleneckConfig
PEFT_TYPE_TO_TUNER_MAPPING[_Type.BOTTLENECK] = BottleneckModel
PEFT_TYPE_TO_PREFIX_MAPPING[_Type.BOTTLENECK] = BottleneckModel.prefix
