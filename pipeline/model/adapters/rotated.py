"""Methods that turn the weights instead of adding to them: what a neuron answers to moves, how strongly it answers does not."""

from pipeline.model.adapters.method import ALL_LINEAR, ANY, BUT_ZERO3, ITS_OWN_DROPOUT, NOT_ITSELF, Method

OFT = Method(
    name="oft",
    when="turns weights and keeps their lengths: careful with what the base knows; slower",
    config="OFTConfig",
    peft_type="OFT",
    defaults=ALL_LINEAR,
    refused={"r": "oft_block_size says it", "module_dropout": ITS_OWN_DROPOUT, "init_weights": NOT_ITSELF},
    divided=ANY,
    in_4_bit=True,
    in_8_bit=True,
)
BOFT = Method(
    name="boft",
    when="like OFT with fewer parameters; slower still",
    config="BOFTConfig",
    peft_type="BOFT",
    defaults=ALL_LINEAR,
    refused={"boft_block_num": "boft_block_size says it", "boft_dropout": ITS_OWN_DROPOUT, "init_weights": NOT_ITSELF},
    divided=ANY,
    in_4_bit=True,
    in_8_bit=True,
)
HRA = Method(
    name="hra",
    when="turns weights by a few reflections: between LoRA's freedom and OFT's care",
    config="HRAConfig",
    peft_type="HRA",
    defaults=ALL_LINEAR,
    refused={"init_weights": NOT_ITSELF},
    divided=BUT_ZERO3,
)
