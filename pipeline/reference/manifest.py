"""The page of manifest.json."""

import typing
from typing import Any

from typing_extensions import is_typeddict

from pipeline.artifact import schema
from pipeline.artifact.manifest import SCHEMA
from pipeline.reference.markdown import anchor, page, table
from pipeline.reference.meanings import ENGINE, below_fields

PARTS = ("Data", "Rows", "Parent", "Base", "Run", "Share", "Kept", "Earlier", "Interval", "Asked", "File")
_FILE = ENGINE / "artifact" / "schema.py"


def manifest_page() -> str:
    return page(
        "manifest.json",
        "The last thing that a stage writes, beside its `adapter/` or `model/`: a folder without it is unfinished. It says "
        "what was trained, on what, how, and what was learned. `align verify` checks it; an edited one is refused. "
        f"This is version {SCHEMA} of the format; keys may be added within it.",
        "```\nruns/<recipe>/<stage>/<fingerprint>/\n"
        "    adapter/ or model/    what was trained, with its tokenizer and template\n"
        "    manifest.json         this\n"
        "    inputs.json           what went into the fingerprint\n"
        "    before.json           the figures before the first step, and after.json, with every row's\n"
        "    log.jsonl             every logged step\n"
        "    samples.jsonl         answers before and after\n"
        "    rejected.jsonl        dropped rows, truncated.jsonl, duplicates.jsonl, doubtful.jsonl, where there are any\n"
        "    stage.log             everything that libraries print\n"
        "    checkpoints/          to go on from\n```",
        "## The manifest",
        _fields("Manifest"),
        *(f"## {name}\n\n{_class(name)}\n\n{_fields(name)}" for name in PARTS),
    )


def _class(name: str) -> str:
    return " ".join((getattr(schema, name).__doc__ or "").split())


def _fields(name: str) -> str:
    hints = typing.get_type_hints(getattr(schema, name), include_extras=True)
    said = below_fields(_FILE, name)
    rows = [[f"`{key}`", _type(hint), said[key], _always(name, key)] for key, hint in hints.items()]
    return table(["key", "type", "meaning", "there"], rows)


def _always(name: str, key: str) -> str:
    return "" if key in getattr(schema, name).__required_keys__ else "not always"


def _type(hint: Any) -> str:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.NotRequired:
        return _type(parts[0])
    if origin is dict:
        inner = _type(parts[1])
        return "a mapping" if inner == "anything" else f"a mapping to {inner}"
    if origin is list:
        return f"a list of {_type(parts[0])}"
    if parts:
        return " or ".join(_type(part) for part in parts)
    if is_typeddict(hint):
        return f"[{hint.__name__}](#{anchor(hint.__name__)})"
    words = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "null"}
    return words.get(hint, "anything")
