"""LoRA and its variants, which are fields of PEFT's LoraConfig (`use_dora`, `use_rslora`, `lora_bias`, …)."""

from pipeline.model.adapters.method import ALL_LINEAR, Method

LORA = Method(
    name="lora",
    when="the default: near full tuning at a small part of its memory, and served by everything",
    config="LoraConfig",
    peft_type="LORA",
    defaults={"r": 16, "lora_alpha": 32} | ALL_LINEAR,
    changeable=("lora_dropout",),
    in_4_bit=True,
    in_8_bit=True,
    new_tokens=True,
    unsloth=True,
)
