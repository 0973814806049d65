"""Small networks behind the blocks of each layer. PEFT has none: its tuner stands in `bottleneck_tuner`, which is heavy."""

from pipeline.model.adapters.method import ANY, Method

BOTTLENECK = Method(
    name="bottleneck",
    when="the first adapters: small networks behind attention and feed-forward; no merged form, so it costs time in use",
    config="BottleneckConfig",
    module="pipeline.model.adapters.bottleneck_tuner",
    peft_type="BOTTLENECK",
    changeable=("bottleneck_dropout",),
    divided=ANY,
    in_4_bit=True,
    in_8_bit=True,
    merged=False,
)
