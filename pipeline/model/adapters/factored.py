"""Methods that add a product of small factors to the weights, cut otherwise than LoRA's two."""

from pipeline.model.adapters.method import (
    ALL_LINEAR,
    ANY,
    BUT_ZERO3,
    ITS_OWN_DROPOUT,
    NO_CONVOLUTION,
    NOT_ITSELF,
    Method,
)

VERA = Method(
    name="vera",
    when="trains vectors between two random matrices, which are saved with it",
    config="VeraConfig",
    peft_type="VERA",
    defaults=ALL_LINEAR,
    refused={
        "init_weights": NOT_ITSELF,
        "save_projection": "an artifact has to hold all that it is, whatever draws random numbers later",
    },
    in_4_bit=True,
    in_8_bit=True,
)
MISS = Method(
    name="miss",
    when="LoRA's sum from one matrix: fewer parameters at the same rank",
    config="MissConfig",
    peft_type="MISS",
    defaults={"r": 16} | ALL_LINEAR,
    refused=dict.fromkeys(("init_weights", "mini_r"), "only PEFT's own beginning has been proven here"),
    divided=ANY,
    in_4_bit=True,
    in_8_bit=True,
)
_DROPOUTS = {"rank_dropout": ITS_OWN_DROPOUT, "module_dropout": ITS_OWN_DROPOUT}
LOHA = Method(
    name="loha",
    when="a higher rank than LoRA's from as many parameters",
    config="LoHaConfig",
    peft_type="LOHA",
    defaults=ALL_LINEAR,
    refused=_DROPOUTS | {"use_effective_conv2d": NO_CONVOLUTION, "init_weights": NOT_ITSELF},
    divided=BUT_ZERO3,
    in_8_bit=True,
)
LOKR = Method(
    name="lokr",
    when="a Kronecker product: a high rank from very few parameters",
    config="LoKrConfig",
    peft_type="LOKR",
    defaults=ALL_LINEAR,
    refused=_DROPOUTS
    | {
        "rank_dropout_scale": ITS_OWN_DROPOUT,
        "use_effective_conv2d": NO_CONVOLUTION,
        "init_weights": NOT_ITSELF,
    },
    divided=BUT_ZERO3,
    in_8_bit=True,
)
