"""Every weight is trained: there is no adapter, and a stage yields a model."""

from pipeline.model.adapters.method import Method

FULL = Method(name="full", when="where memory allows: what an adapter is measured against")
