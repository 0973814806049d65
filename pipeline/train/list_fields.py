"""Writes the list of the stages' and PEFT's fields, which a plan reads instead of the libraries, anew for new versions."""

import dataclasses
import enum
import json
import re
import types
import typing
from collections.abc import Mapping

from pipeline.model.adapters import CONFIGS
from pipeline.recipe.fields import COMMON, LIST, UNSERVED, kind_of
from pipeline.stage import specs

CHOICES = {"debug": ["underflow_overflow"]}  # those of fields whose type does not say; the other one is for TPUs


def regenerate() -> dict[str, dict[str, dict]]:
    """The list as the installed TRL, transformers and PEFT have it. Takes seconds."""
    from transformers import TrainingArguments

    from pipeline.train.loop.arguments import config_class

    common = _rows(TrainingArguments)
    listed = {COMMON: common}
    for spec in specs().values():
        config, unserved = config_class(spec), UNSERVED.get(spec.config, ())
        rows = {name: _with_choices(row, common.get(name, {})) for name, row in _rows(config).items()}
        listed[spec.config] = {
            name: row for name, row in rows.items() if row != common.get(name) and name not in unserved
        }
    return listed | {config: _rows(method.config_class()) for config, method in CONFIGS.items()}


def _rows(config: type) -> dict[str, dict]:
    hints = typing.get_type_hints(config)
    rows = {}
    for field in dataclasses.fields(config):
        made = field.default_factory is not dataclasses.MISSING
        default = field.default_factory() if made else field.default
        kinds, choices = _kinds(hints[field.name])
        if "dict" in kinds:  # as text it would be JSON, for command lines
            kinds = [kind for kind in kinds if kind != "str"]
        choices = (
            choices
            or list(field.metadata.get("choices", ()))
            or _choices_in_prose("".join(field.metadata.get("help", "")))  # PEFT has some in pieces
            or CHOICES.get(field.name, [])
        )
        # In an order of our own: of two unions of the same types `typing` keeps the one that it met first.
        kinds.sort(key=lambda kind: (kind == "null", kind))
        items = _items(hints[field.name])
        rows[field.name] = {"kinds": kinds, "default": _as_json(default)}
        rows[field.name] |= {"choices": choices} if choices else {}
        rows[field.name] |= {"items": items} if items else {}
    return rows


def _with_choices(row: dict, common: dict) -> dict:
    """A field that a config declares anew, with another default, has the choices that it had."""
    return row | {"choices": common["choices"]} if "choices" in common and "choices" not in row else row


def _items(hint: object) -> list[str]:
    """The kinds of what stands in a list, as far as the hint says."""
    origin, parts = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return list(dict.fromkeys(kind for part in parts for kind in _items(part)))
    kinds = _kinds(parts[0])[0] if origin is list and parts else []
    return ["list" if kind == "tuple" else kind for kind in kinds]


def _kinds(hint: object) -> tuple[list[str], list[str]]:
    origin, parts = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        found = [_kinds(part) for part in parts]
        kinds = list(dict.fromkeys(kind for each, _ in found for kind in each))
        return kinds, [choice for _, choices in found for choice in choices]
    if origin is typing.Literal:
        return list(dict.fromkeys(map(kind_of, parts))), [part for part in parts if isinstance(part, str)]
    if isinstance(origin, type) and issubclass(origin, enum.Enum):
        return ["str"], [member.value for member in origin]
    # PEFT turns a mapping into its sub-configs by itself.
    if dataclasses.is_dataclass(origin):
        return ["dict"], []
    if origin is tuple:
        return ["list"], []
    return ["null" if origin is type(None) else origin.__name__], []


def _choices_in_prose(text: str) -> list[str]:
    """TRL names the values of `loss_type` and the like only in their help: in one sentence, or each with what it means."""
    begun = next((words for words in ("Possible values are", "Supported values are '") if words in text), None)
    if begun:
        sentence = begun[-1:] + text.partition(begun)[2].partition(". ")[0]
        patterns = (r"`'(\w+)'`", r"`(\w+)`", r"'(\w+)'")
        return list(dict.fromkeys(next((found for one in patterns if (found := re.findall(one, sentence))), [])))
    explained = "Supported values are: `" in text or text.startswith("Controls whether importance sampling ratios")
    return list(dict.fromkeys(re.findall(r"(\w+)'`", text))) if explained else []


def _as_json(default: object) -> object:
    if isinstance(default, enum.Enum):
        return default.value
    return dataclasses.asdict(default) if dataclasses.is_dataclass(default) else default


def as_text(listed: Mapping[str, Mapping[str, dict]]) -> str:
    """The list with one field a line, so that a new version shows as a readable difference."""
    configs = []
    for config, rows in listed.items():
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
        configs.append(f" {json.dumps(config)}: {{\n{lines}\n }}")
    return "{\n" + ",\n".join(configs) + "\n}\n"


if __name__ == "__main__":
    LIST.write_text(as_text(regenerate()), encoding="utf-8")
    print(f"wrote {LIST}")
