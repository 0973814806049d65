"""What a person should know of a file's first rows though they are good: how else something could be meant."""

import json
import re
from collections.abc import Sequence

from pipeline.data.prepare.kinds import Probed, as_options, guessed_columns, label_fields_of
from pipeline.data.shapes.examples import FIELDS
from pipeline.data.shapes.fields import renamed
from pipeline.data.shapes.guessed import as_columns
from pipeline.data.shapes.kinds import KINDS
from pipeline.data.shapes.labels import is_wanted, taken_for_classes
from pipeline.data.shapes.turns import REASONING
from pipeline.data.tokens import in_use
from pipeline.data.tokens.template import Template

_SHOWN = 5  # values
_NAMES = "|".join(REASONING)
_REASONING = re.compile(rf'"(?:{_NAMES})": "[^"]|"type": "(?:{_NAMES})"|<think>')


def remarks(rows: Probed, kind: str, tokenizer: object = None) -> list[str]:
    """Fields that may be labels and were not taken for that; what the chat template does to reasoning."""
    found = _classes(rows) if kind == "conversation" else []
    if kind == "prompt" and (columns := guessed_columns(rows)):
        found.append(f"with answers under other names: data.columns: {as_columns(columns)}{as_options(columns)}")
    if tokenizer and KINDS[kind].ASKS and any(_REASONING.search(json.dumps(row.value, default=str)) for row, _ in rows):
        found += in_use.with_reasoning(Template(tokenizer))
    return found


def _classes(rows: Probed) -> list[str]:
    values = [
        renamed(row.value, source.columns)
        for row, source in rows
        if isinstance(row.value, dict) and set(source.columns.values()) <= row.value.keys()
    ]
    found = taken_for_classes(values, {*label_fields_of(rows), *FIELDS})
    return [_said(field, some) for field, some in found.items()]


def _said(field: str, values: Sequence) -> str:
    shown = ", ".join(json.dumps(value, ensure_ascii=False) for value in values[:_SHOWN])
    more = ", ..." if len(values) > _SHOWN else ""
    if any(isinstance(value, str) and is_wanted(value) is not None for value in values):
        return (
            f'"{field}" ({shown}{more}) is taken for a class of the text, and every answer is learned; if it says '
            f"which answers are wanted, name it: data.columns: {{label: {field}}} (--column label={field})"
        )
    return f'"{field}" ({shown}{more}) is not read: an answer is learned whatever it says'
