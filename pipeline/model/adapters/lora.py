"""LoRA and its variants, which are fields of PEFT's LoraConfig (`use_dora`, `use_rslora`, `lora_bias`, …)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.model.adapters.method import ALL_LINEAR, ANY, IN_4_BITS, KEEP, NOT_ITSELF, ROLES, SEVERAL, Method

_RATIO, _BEGINS = "loraplus_lr_ratio", "init_lora_weights"
_FROM_THE_BASE = ("pissa", "olora")


@dataclass(frozen=True)
class Lora(Method):
    """A method of PEFT's LoraConfig."""

    def of(self, fields: Mapping[str, Any]) -> Method:
        return FROM_THE_BASE if str(fields.get(_BEGINS)).lower().startswith(_FROM_THE_BASE) else self

    def without_gpu(self, fields: Mapping[str, object], bits: int | None) -> tuple[str, str] | None:
        """DoRA reads the base's weights in each step. On a CPU PEFT puts them back behind it (`dequantize_module_weight`),
        without the scales of 8-bit rows, which bitsandbytes keeps elsewhere by then. On a GPU it puts nothing back.
        """
        if bits != 8 or not fields.get("use_dora"):
            return None
        return (
            "DoRA on a base in 8 bits needs a GPU, and there is none here: on a CPU it loses the base's scales",
            "Set model.load_in_4bit instead, which runs here, or leave use_dora out.",
        )

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


@dataclass(frozen=True)
class FromTheBase(Lora):
    """PiSSA (arXiv:2404.02948) and OLoRA (arXiv:2406.01775), which begin with a part of each weight and take it from the base.

    Here the base stays as it is, and a second, frozen adapter takes the part from what it gives: W + s(BA - B0A0) instead
    of (W - sB0A0) + sBA. What is left in the end is one plain LoRA of twice the rank.
    """

    def put_on(self, base, config):
        from pipeline.model.adapters.lora_forms import beginning_with_a_part

        return beginning_with_a_part(base, config)

    def finished(self, model):
        from pipeline.model.adapters.lora_forms import with_both_parts

        return with_both_parts(model)

    def left(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        left = super().left(fields)
        del left[_BEGINS]
        for key in ("r", "lora_alpha"):
            rank = left.get(key, self.defaults[key])
            left[key] = 2 * rank if isinstance(rank, int) else rank
        for key in ("rank_pattern", "alpha_pattern"):
            if isinstance(left.get(key), dict):
                left[key] = {name: 2 * rank for name, rank in left[key].items() if isinstance(rank, int)}
        return left


@dataclass(frozen=True)
class AdaLora(Method):
    """Ranks that move to where they matter (arXiv:2303.10512): B E A instead of B A, and what E is 0 of is left out in the end."""

    def settings(self, fields: Mapping[str, Any], **fixed: object):
        return super().settings(fields, total_step=_ENDLESS, **fixed)  # see `alongside`

    def put_on(self, base, config):
        from pipeline.model.adapters.lora_forms import adaptive

        return adaptive(base, config)

    def too_short(self, fields: Mapping[str, Any], steps: int) -> str | None:
        first, last = (int(fields.get(key) or 0) for key in ("tinit", "tfinal"))
        if max(first, 1) + last < steps:  # in the first step ranks are looked at, and none can move yet
            return None
        return f"adapter.tinit and adapter.tfinal are {first} and {last} of {steps} steps, and in none between them ranks could move"

    def alongside(self, model, steps: int):
        from pipeline.model.adapters.lora_forms import Allocation

        return Allocation(model, steps)

    def finished(self, model):
        from pipeline.model.adapters.lora_forms import with_the_ranks_left

        return with_the_ranks_left(model)

    def left(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        ranks = fields.get("target_r", 8)
        shared = {key: fields[key] for key in _KEPT_OF_ADALORA if key in fields}
        return {"method": LORA.name, "r": ranks, "lora_alpha": ranks} | ALL_LINEAR | shared


_ENDLESS = 1 << 40
_KEPT_OF_ADALORA = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout")
_COMMON = {
    "name": "lora",
    "when": "the default: near full tuning at a small part of its memory, and served by everything",
    "config": "LoraConfig",
    "peft_type": "LORA",
    "learning": {_RATIO: 1.0},
    "defaults": {"r": 16, "lora_alpha": 32} | ALL_LINEAR,
    "changeable": ("lora_dropout",),
    "new_tokens": True,
}
LORA = Lora(**_COMMON, in_4_bit=True, in_8_bit=True, divided=(*ANY, IN_4_BITS), unsloth=True)
FROM_THE_BASE = FromTheBase(
    **_COMMON,
    key=_BEGINS,
    called="a LoRA that begins with a part of the base (init_lora_weights)",
    beside=False,
    converted=True,
    cannot={
        ROLES: "a LoRA that begins with a part of the base stands there alone; let it begin in an earlier stage, and it goes on here"
    },
)
_FOUND = "the ranks are what the method finds; init_r and target_r say with how many it begins and ends"
ADALORA = AdaLora(
    name="adalora",
    when="LoRA whose ranks move to the layers that need them while it trains; left as a plain LoRA",
    config="AdaLoraConfig",
    peft_type="ADALORA",
    defaults={"lora_alpha": 32} | ALL_LINEAR,
    refused={
        "total_step": "the steps of the stage are it",
        "use_dora": "PEFT has no such AdaLoRA",
    }
    | dict.fromkeys(("r", "rank_pattern", "alpha_pattern"), _FOUND)
    | dict.fromkeys(
        ("use_rslora", "lora_bias", "target_parameters", "use_bdlora", "velora_config", "ensure_weight_tying"),
        "AdaLoRA's layers do not read it",
    )
    | {"init_lora_weights": NOT_ITSELF},
    beside=False,
    in_4_bit=True,
    in_8_bit=True,
    converted=True,
    cannot={
        ROLES: "it stands alone on a base while it trains; let it begin in an earlier stage, and a LoRA goes on here",
        KEEP: "its ranks are settled by its last steps, and earlier weights do not fit them",
        SEVERAL: "its ranks are moved beside the gradients that processes exchange",
    },
)
