"""Mistakes in keys that are passed through to TRL's and PEFT's configs."""

from collections.abc import Iterator, Mapping

from pipeline.model.adapters import CONFIGS
from pipeline.recipe.fields import fields_of
from pipeline.recipe.problem import Problem
from pipeline.recipe.unknown import unknown_key


def passed_through(given: dict, where: tuple, config: str, owned: Mapping[str, str]) -> Iterator[Problem]:
    fields = fields_of(config)
    settable = fields.keys() - owned.keys() | ({"method"} if config in CONFIGS else set())
    for key, value in given.items():
        if key in owned:
            yield (*where, key), owned[key]
        elif key not in fields:
            yield (*where, key), unknown_key(str(key), where, sorted(settable), value)
        elif complaint := fields[key].complaint(value):
            yield (*where, key), complaint
