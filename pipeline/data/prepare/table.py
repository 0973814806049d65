"""Rows on disk: their tokens and what they were made from, mapped into memory, so that a million cost next to none."""

from collections.abc import Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy
import pyarrow
import pyarrow.compute

from pipeline.data.shapes.kinds import Kind
from pipeline.data.shapes.kinds.kind import from_bytes

if TYPE_CHECKING:
    from datasets import Dataset


PROMPT_HASH = "prompt_hash"
# Of which row they are: its file and line, whether they are its first piece, its prompt's hash, the tokens that it
# lost, the part of the mixture that it comes from, itself.
BESIDE = {
    "place": pyarrow.string(),
    "first": pyarrow.bool_(),
    PROMPT_HASH: pyarrow.uint64(),
    "cut": pyarrow.int32(),
    "part": pyarrow.int16(),
    "example": pyarrow.binary(),
}
BATCH = 1000  # rows written and read at once


def schema(kind: type[Kind]) -> pyarrow.Schema:
    """Of the tables of one kind of rows."""
    tokens = dict.fromkeys(kind.COLUMNS, pyarrow.list_(pyarrow.int32()))
    return pyarrow.schema(tokens | dict.fromkeys(kind.NUMBERS, pyarrow.float32()) | BESIDE)


def batch(kind: type[Kind], pieces: Sequence[dict]) -> pyarrow.RecordBatch:
    """Rows as the columns that a table has."""
    columns = schema(kind)
    arrays = [_array([piece[field.name] for piece in pieces], field.type) for field in columns]
    return pyarrow.record_batch(arrays, schema=columns)


def flags(values: Sequence[bool] | numpy.ndarray) -> pyarrow.Array:
    """For a column, or to filter by."""
    bits = numpy.packbits(numpy.array(values, dtype=bool), bitorder="little")
    return pyarrow.Array.from_buffers(pyarrow.bool_(), len(values), [None, pyarrow.py_buffer(bits)])


def _array(column: Sequence, kind: pyarrow.DataType) -> pyarrow.Array:
    """From its bytes: `pyarrow.array` imports pandas, in half a second, to see whether that is what it was given."""
    if pyarrow.types.is_list(kind):
        values = numpy.concatenate([*column, numpy.empty(0, dtype=numpy.int32)])
        return pyarrow.ListArray.from_arrays(
            _numbers(_ends(column), pyarrow.int32()), _numbers(values, kind.value_type)
        )
    if pyarrow.types.is_string(kind) or pyarrow.types.is_binary(kind):
        values = [one.encode() if isinstance(one, str) else one for one in column]
        buffers = [None, pyarrow.py_buffer(_ends(values)), pyarrow.py_buffer(b"".join(values))]
        return pyarrow.Array.from_buffers(kind, len(column), buffers)
    if pyarrow.types.is_boolean(kind):
        return flags(column)
    return _numbers(numpy.array(column, dtype=kind.to_pandas_dtype()), kind)


def _ends(column: Sequence) -> numpy.ndarray:
    return numpy.cumsum([0, *map(len, column)], dtype=numpy.int32)


def _numbers(values: numpy.ndarray, kind: pyarrow.DataType) -> pyarrow.Array:
    return pyarrow.Array.from_buffers(kind, len(values), [None, pyarrow.py_buffer(values)])


def values(column: pyarrow.ChunkedArray | pyarrow.Array) -> numpy.ndarray:
    """(rows,) of a column of numbers, or of flags as 0 and 1. (`to_numpy` would import pandas, too.)"""
    if pyarrow.types.is_boolean(column.type):
        column = column.cast(pyarrow.uint8())
    if isinstance(column, pyarrow.ChunkedArray):
        column = column.combine_chunks()
    return numpy.from_dlpack(column)


def mapped(path: Path) -> pyarrow.Table:
    """The rows for whoever trains nothing: `datasets` takes a second to import."""
    return pyarrow.ipc.open_stream(pyarrow.memory_map(str(path))).read_all()


def table(path: Path) -> "Dataset":
    from datasets import Dataset

    return Dataset.from_file(str(path))


def tokens(rows: "Dataset") -> "Dataset":
    """The columns that are trained on."""
    return rows.select_columns([name for name in rows.column_names if name not in BESIDE])


def numbers(rows: "Dataset", column: str) -> numpy.ndarray:
    """A column of one number a row; of a column of tokens, how many of them each row has."""
    found: list[numpy.ndarray] = [numpy.empty(0, dtype=numpy.uint64 if column == PROMPT_HASH else numpy.int64)]
    for batch in rows.select_columns([column]).with_format("arrow").iter(BATCH):
        rows_of = batch.column(column)
        counted = pyarrow.compute.list_value_length(rows_of) if pyarrow.types.is_list(rows_of.type) else rows_of
        found.append(values(counted))
    return numpy.concatenate(found)


def lengths(rows: "Dataset") -> numpy.ndarray:
    """How many tokens each row has in all its columns of tokens."""
    schema = rows.features.arrow_schema
    columns = [name for name in schema.names if pyarrow.types.is_list(schema.field(name).type)]
    return reduce(numpy.add, (numbers(rows, name) for name in columns))


def longest(trained: Path, held_out: Path, kind: type[Kind]) -> dict[str, int]:
    """Of tables on disk: the tokens of the longest `row` and of the longest `prompt`, and `tokens` and `rows` of one pass.

    A row of several answers is as long as its prompt and the longest of them; each of them is read with the prompt.
    """
    rows, asked = mapped(trained), mapped(held_out)
    prompts = (
        [pyarrow.compute.max(_lengths(one, "prompt_ids")).as_py() or 0 for one in (rows, asked)] if _asks(kind) else []
    )
    answers = [name for name in kind.COLUMNS if name not in ("prompt_ids", "labels")]
    prompt = _lengths(rows, "prompt_ids") if _asks(kind) else None
    whole = [_added(_lengths(rows, name), prompt) for name in answers] or [prompt]
    found = {
        "row": max((pyarrow.compute.max(one).as_py() or 0 for one in whole), default=0),
        "tokens": sum(pyarrow.compute.sum(one).as_py() or 0 for one in whole),
        "rows": len(rows),
    }
    return found | ({"prompt": max(prompts)} if prompts else _unlearned(asked) if "labels" in kind.COLUMNS else {})


def _asks(kind: type[Kind]) -> bool:
    return "prompt_ids" in kind.COLUMNS


def _lengths(rows: pyarrow.Table, name: str) -> pyarrow.ChunkedArray:
    return pyarrow.compute.list_value_length(rows.column(name))


def _added(one, other):
    return one if other is None else pyarrow.compute.add(one, other)


def _unlearned(rows: pyarrow.Table) -> dict[str, int]:
    """The longest prompt of conversations, as nearly as their labels tell: what carries no loss."""
    counts = [int((numpy.asarray(labels.values) < 0).sum()) for labels in rows.column("labels")]
    return {"prompt": max(counts)} if counts else {}


class Examples(Sequence[Kind]):
    """What the rows of a table were made from, each read when it is asked for."""

    def __init__(self, rows: "Dataset", kind: type[Kind]):
        self._rows, self.kind = rows.select_columns(["example"]), kind

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, which: int) -> Kind: ...

    @overload
    def __getitem__(self, which: slice) -> list[Kind]: ...

    def __getitem__(self, which: int | slice) -> Kind | list[Kind]:
        found = self._rows[which]["example"]
        return (
            [from_bytes(self.kind, one) for one in found] if isinstance(which, slice) else from_bytes(self.kind, found)
        )

    def __iter__(self) -> Iterator[Kind]:
        return (from_bytes(self.kind, row["example"]) for row in self._rows)
