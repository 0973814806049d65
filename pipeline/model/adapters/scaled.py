"""Methods that train vectors alone: factors beside activations (IA3), or the norms that are there already."""

from pipeline.model.adapters.method import NOT_ITSELF, Method

IA3 = Method(
    name="ia3",
    when="the fewest parameters that still learn a task; wants ten times LoRA's learning rate",
    config="IA3Config",
    peft_type="IA3",
    refused={"init_ia3_weights": NOT_ITSELF},
    in_4_bit=True,
    in_8_bit=True,
)
LN_TUNING = Method(
    name="ln_tuning",
    when="only the norms: a small change of style or domain",
    config="LNTuningConfig",
    peft_type="LN_TUNING",
)
