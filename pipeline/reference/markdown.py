"""Markdown that a code host and the site's builder read alike."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence

NOTHING = "–"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; what no row says anything in is left out as a column."""
    rows = [[cell.strip().replace("\n", " ").replace("|", "\\|") for cell in row] for row in rows]
    told = [n for n in range(len(head)) if any(row[n] not in ("", NOTHING) for row in rows)]
    lines = [[head[n] for n in told], ["---" for _ in told], *([row[n] for n in told] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code(value: object) -> str:
    """A value as a recipe would have it."""
    if value is None:
        return NOTHING
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return f"`{text}`"


def codes(names: Iterable[object], between: str = ", ") -> str:
    return between.join(code(name) for name in names)


def anchor(heading: str) -> str:
    """What a heading's link ends with, on a code host and on the site."""
    return re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip())


def page(title: str, *parts: str) -> str:
    made = f"# {title}\n\n<!-- made by `make reference`: edit the code it is made from -->"
    return "\n\n".join([made, *(part.strip() for part in parts if part.strip())]) + "\n"


def type_words(schema: Mapping, names: Mapping[str, str]) -> str:
    """A JSON schema's type in words; `names` has the heading under which each section is told."""
    if reference := schema.get("$ref"):
        heading = names[reference.rpartition("/")[2]]
        return f"[{heading}](#{anchor(heading)})"
    if "enum" in schema:
        return f"one of {codes(schema['enum'])}"
    if several := schema.get("anyOf") or schema.get("oneOf"):
        words = [type_words(one, names) for one in several if one.get("type") != "null"]
        if {"true or false", "`auto`"} == {*words}:
            return "`true`, `false` or `auto`"
        return " or ".join(words) + _such_as(schema)
    if "const" in schema:
        return code(schema["const"])
    kind = schema.get("type")
    if kind == "array":
        if "enum" in schema.get("items", {}):
            return f"a list from {codes(schema['items']['enum'])}"
        return f"a list of {type_words(schema['items'], names)}" if schema.get("items") else "a list"
    if kind == "object":
        inner = schema.get("additionalProperties")
        of = f", of {type_words(inner, names)}" if isinstance(inner, dict) and "$ref" in inner else ""
        return f"a mapping{of}"
    plain = {"string": "text", "integer": "a whole number", "number": "a number", "boolean": "true or false"}
    return plain[str(kind)] + _limits(schema) + _such_as(schema)


def _limits(schema: Mapping) -> str:
    said = {"minimum": "{} or more", "exclusiveMinimum": "more than {}", "maximum": "{} at most"}
    found = [words.format(schema[key]) for key, words in said.items() if key in schema]
    return f", {', '.join(found)}" if found else ""


def _such_as(schema: Mapping) -> str:
    return f", such as {codes(schema['examples'])}" if schema.get("examples") else ""
