"""The model's own weights are trained, all or some: there is no adapter, and a stage yields a model."""

from pipeline.model.adapters.method import ANY, Method

FULL = Method(
    name="full", when="where memory allows: what an adapter is measured against", divided=ANY, new_tokens=True
)
FREEZE = Method(
    name="freeze",
    when="the last layers alone, where memory allows no full tuning: no gradients and no optimizer for the rest",
    numbers={"layers": 2},
    divided=ANY,
)
