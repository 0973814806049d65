"""What a person should know of a file's first rows though they are good: how something was taken that could be meant otherwise."""

import json
from collections.abc import Sequence

from pipeline.data.prepare.kinds import Probed, labels_of
from pipeline.data.shapes.fields import renamed
from pipeline.data.shapes.labels import is_wanted, taken_for_classes
from pipeline.data.shapes.shape import FIELDS

_SHOWN = 5  # values


def remarks(rows: Probed, kind: str) -> list[str]:
    """Of conversations: fields that may be labels of the answers and were not taken for that."""
    if kind != "conversation":
        return []
    values = [
        renamed(row.value, source.columns)
        for row, source in rows
        if isinstance(row.value, dict) and set(source.columns.values()) <= row.value.keys()
    ]
    found = taken_for_classes(values, {*labels_of(rows), *FIELDS})
    return [_said(field, some) for field, some in found.items()]


def _said(field: str, values: Sequence) -> str:
    shown = ", ".join(json.dumps(value, ensure_ascii=False) for value in values[:_SHOWN])
    more = ", ..." if len(values) > _SHOWN else ""
    if any(isinstance(value, str) and is_wanted(value) is not None for value in values):
        return (
            f'"{field}" ({shown}{more}) is taken for a class of the text, and every answer is learned; if it says which '
            f"answers are wanted, name it: data.columns: {{label: {field}}} (--column label={field})"
        )
    return f'"{field}" ({shown}{more}) is not read: an answer is learned whatever it says'
