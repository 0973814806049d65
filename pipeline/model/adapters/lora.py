"""LoRA and its variants, which are fields of PEFT's LoraConfig (`use_dora`, `use_rslora`, `lora_bias`, …)."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.model.adapters.method import ALL_LINEAR, Method

_RATIO = "loraplus_lr_ratio"


@dataclass(frozen=True)
class Lora(Method):
    """A method of PEFT's LoraConfig."""

    def spread(self, optimizer, model, learning: Mapping[str, float]) -> None:
        """LoRA+ (Hayou et al., 2024, arXiv:2402.12354): B learns so many times faster than A. What is a vector learns with B, as
        in PEFT's `create_loraplus_optimizer`; decay, and a rate of their own that some have, stay as they are.
        """
        if _RATIO not in learning:
            return
        fast = {id(one) for name, one in model.named_parameters() if "lora_B" in name or one.ndim == 1}
        for group in list(optimizer.param_groups):
            faster = [one for one in group["params"] if id(one) in fast]
            if faster:
                group["params"] = [one for one in group["params"] if id(one) not in fast]
                optimizer.add_param_group(group | {"params": faster, "lr": group["lr"] * learning[_RATIO]})


LORA = Lora(
    name="lora",
    when="the default: near full tuning at a small part of its memory, and served by everything",
    config="LoraConfig",
    peft_type="LORA",
    learning={_RATIO: 1.0},
    defaults={"r": 16, "lora_alpha": 32} | ALL_LINEAR,
    changeable=("lora_dropout",),
    in_4_bit=True,
    in_8_bit=True,
    new_tokens=True,
    unsloth=True,
)
