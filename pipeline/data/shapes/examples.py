"""Rows of the shapes that people have, made into examples of the kind that a stage trains on.

A row is of the first shape, from the top, all of whose fields for its kind it has; `data.columns` puts the shapes
whose fields it names before the others, and `data.shape` takes one without looking. | stands for "or".

    shape        text                       conversation                  preference                     prompt
    prompt                                  prompt, completion | response prompt, chosen, rejected       prompt
    messages                                messages                      messages, chosen, rejected     messages
    sharegpt                                conversations | conversation  the same, chosen, rejected     the same
    alpaca                                  instruction, output           instruction, chosen, rejected  instruction
    question                                question, answer              question, chosen, rejected     question
    review                                  review, sentiment
    turns                                                                                                turns
    transcripts                                                           chosen_messages, rejected_messages
                                                                          | chosen, rejected
    text         text | content | document

Any but text may have `system` and `tools` beside these; alpaca also `input` and `history`. A conversation with a label,
as rows for KTO have, is learned if that says that it is wanted.
"""

from collections.abc import Collection, Mapping
from functools import lru_cache

from pipeline.data.shapes.fields import BadRow, names, renamed, type_of
from pipeline.data.shapes.guessed import as_columns, guessed
from pipeline.data.shapes.kinds import KINDS, Kind
from pipeline.data.shapes.labels import Unwanted, find_label_fields
from pipeline.data.shapes.shape import BESIDE, SHAPES, Shape

FIELDS = BESIDE.union(
    *(kind.fields(SHAPES[name]) for kind in KINDS.values() for name in kind.WRITTEN_AS)
)  # all that some read


def shapes_of(kind: str) -> list[str]:
    return [name for name in SHAPES if name in KINDS[kind].WRITTEN_AS]


def example_of(
    value: object,
    kind: str,
    *,
    columns: Mapping[str, str] = {},
    named: str | None = None,
    label_fields: Collection[str] | None = None,
) -> Kind:
    """One row as an example of the kind so named.

    `columns` is {expected name: the file's name}, `named` the shape that the rows have where it is not to be
    recognized, `label_fields` those that say whether a conversation is wanted, if more is known of the file than this
    row. Raises BadRow with the reason, in words that name the field.
    """
    if not isinstance(value, dict):
        raise BadRow(f"the row is {type_of(value)}, not an object with named fields")
    row = renamed(value, columns)
    if label_fields is None:
        label_fields = find_label_fields([row], columns) if KINDS[kind].HEEDS_LABELS else ()
    try:
        return KINDS[kind].read(row, SHAPES[named] if named else _recognized(row, kind, columns), label_fields)
    except Unwanted:
        raise
    except BadRow as bad:
        if rather := KINDS[kind].rather(row):
            raise BadRow(f"{bad}; {rather}") from None
        raise


def _recognized(row: dict, kind: str, columns: Mapping[str, str]) -> Shape:
    if (best := _of_fields(tuple(row), kind, tuple(columns))) is None:
        lacks = 'has no "text", "content" or "document"' if kind == "text" else f"is of no shape known for {kind} rows"
        which = as_columns(found) if (found := guessed(row, kind)) else KINDS[kind].ROW
        raise BadRow(f"{lacks}; its fields are {names(row)}: say in data.columns which is which, as in {which}")
    return SHAPES[best]


def recognized(value: object, kind: str, columns: Mapping[str, str] = {}) -> str | None:
    """The name of the shape that a row is taken to have; None where it has none."""
    if not isinstance(value, dict) or not set(columns.values()) <= value.keys():
        return None
    return _of_fields(tuple(renamed(value, columns)), kind, tuple(columns))


@lru_cache  # the rows of a file have the same fields, most often
def _of_fields(fields: tuple[str, ...], kind: str, columns: tuple[str, ...]) -> str | None:
    one = KINDS[kind]

    def is_named(name: str) -> bool:
        return any(field in columns for group in one.groups(SHAPES[name]) for names in group for field in names)

    possible = sorted(
        (name for name in shapes_of(kind) if not SHAPES[name].only_named), key=lambda name: not is_named(name)
    )
    best = max(possible, key=lambda name: one.present(SHAPES[name], fields))
    return best if one.present(SHAPES[best], fields) else None
