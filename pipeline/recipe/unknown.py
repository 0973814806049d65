"""One mistake in its author's words: what a value must be, or which key an unknown one was meant to be."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from pipeline import stage
from pipeline.data.source import ROWS_TAG, Data, EveryData, HeldOut, Part
from pipeline.model.adapters import CONFIGS, DEFAULT, METHODS, NOT_HERE
from pipeline.recipe import foreign
from pipeline.recipe.fields import fields_of, is_listed
from pipeline.recipe.owned import ADAPTER_OWNED, OWNED
from pipeline.recipe.problem import Problem
from pipeline.recipe.recipe import Recipe
from pipeline.recipe.sections import Evaluation, Model, StageSection, Tokenizer
from pipeline.wording import must_be, nearest, not_among

_CONFIGS = [config for config, one in CONFIGS.items() if not one.by_class]
_NUMBERS = [key for method in METHODS.values() for key in method.numbers]
_WANTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


def worded(error: Mapping[str, Any]) -> Problem:
    """One of pydantic's errors in a recipe author's words."""
    path = tuple(part for part in error["loc"] if part != ROWS_TAG)
    kind, value = error["type"], error["input"]
    if kind == "extra_forbidden":
        section = ("stages", "<stage>", *path[2:-1]) if path[0] == "stages" else path[:-1]
        in_any_stage = [part for part in section if not isinstance(part, int)]
        return path, unknown_key(str(path[-1]), path[:-1], sections().get(".".join(in_any_stage), ()), value)
    if kind == "missing":
        return path, "is missing"
    if kind == "invalid_key":
        return tuple(part for part in path if part != "[key]"), "a key must be text; put it in quotes"
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        return path, not_among(value, choices)
    if kind == "value_error":
        return path, str(error["ctx"]["error"])
    if kind in _WANTED:
        return path, must_be(_WANTED[kind], value) + _as_mapping(path, value)
    return path, error["msg"].replace("Input should", "must")


def _as_mapping(path: tuple, word: object) -> str:
    """Other tools name the model, the kind of adapter and the number of processes in a word."""
    if path == ("launch",) and (word == "auto" or type(word) is int):
        return f"; write launch: {{processes: {word}}}"
    if not isinstance(word, str):
        return ""
    if path[-1:] == ("adapter",):
        if word in NOT_HERE and word != "qlora":
            return f"; {NOT_HERE[word]}"
        base = " and model: {load_in_4bit: true}" if word == "qlora" else ""
        method = word if word in METHODS else DEFAULT
        return f"; write adapter: {{method: {method}}}{base}"
    return f"; write model: {{id: {word}}}" if path == ("model",) else ""


@cache
def sections() -> dict[str, Iterable[str]]:
    """The keys of every section, in the order in which a stray key's home is looked for."""
    return {
        "": Recipe.model_fields,
        "model": Model.model_fields,
        "data": EveryData.model_fields,
        "stages.<stage>.data": Data.model_fields,
        "stages.<stage>.data.held_out": HeldOut.model_fields,
        "stages.<stage>.data.mixture": Part.model_fields,
        "adapter": ("method", *_NUMBERS, *dict.fromkeys(key for config in _CONFIGS for key in fields_of(config))),
        "evaluation": Evaluation.model_fields,
        "stages.<stage>": StageSection.model_fields,
        "stages.<stage>.evaluation": Evaluation.model_fields,
        "model.tokenizer": Tokenizer.model_fields,
    }


def unknown_key(key: str, section: Sequence[object], valid: Iterable[str], value: object) -> str:
    """What to say of a key that its section does not have: the nearest one, where the key belongs, or why there is none."""
    valid, inner = list(valid), str(section[-1]) if section else ""
    owned = OWNED | ADAPTER_OWNED
    if value is None and (key in owned or foreign.is_known(key)):
        return "is empty, and no key of a recipe; leave it out"
    if key in owned:
        return owned[key]
    if said := foreign.method_of(key, value):
        return said
    name = foreign.nearest_key(key, "data" if "data" in section else inner, value)
    here = name.rpartition(".")[2] if name.startswith(f"{inner}.") else name
    if section == ("data",) and here in Data.model_fields and here not in valid:
        return f"is of one stage's rows; put it under stages.<stage>.data{'' if here == key else f' as {here}'}"
    known = here if here in valid else _home(name, section)
    if not known and (said := foreign.answer(key)):
        return said
    close = known or nearest(key, valid)
    if not close:
        return "unknown key"
    note = foreign.note(key, value)
    return f"unknown key; did you mean {close}?" + (f" ({note})" if note else "")


def _home(name: str, section: Sequence[object]) -> str | None:
    """The full place of a key that is known elsewhere in a recipe."""
    inside = section[:1] == ("stages",)
    in_stage = f"stages.{section[1] if inside else '<stage>'}"
    prefix, _, last = name.rpartition(".")
    for home, keys in sections().items():
        if last in keys and prefix in ("", home.rpartition(".")[2]) and not (inside and home == "data"):
            return f"{home}.{last}".lstrip(".").replace("stages.<stage>", in_stage)
    configs = listed_configs(stage.specs())
    having = [config for config in configs if name in fields_of(config)]
    if having and section[-1:] == ("train",):
        return " or ".join(f"stages.{other}.train.{name}" for config in having for other in configs[config])
    # Where one of the recipe's stages has it not, as those that sample responses have no max_length, that is told then.
    usual = [config for config, names in configs.items() if not stage.specs()[names[0]].response]
    if set(usual) <= set(having) and not section:
        return f"train.{name}"
    return f"{in_stage}.train.{name}" if having else None


def listed_configs(stages: Iterable[str]) -> dict[str, list[str]]:
    """The TRL configs of some stages, each with its stages, as far as they are listed."""
    found: dict[str, list[str]] = {}
    for name in stages:
        spec = stage.specs().get(name)
        if spec and is_listed(spec.config):
            found.setdefault(spec.config, []).append(name)
    return found
