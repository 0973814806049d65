"""The rows of CSV, TSV, plain text, Parquet and Arrow, each as a stream."""

import csv
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, islice
from typing import Protocol, TextIO

from pipeline.data.read.row import Row, nothing_in
from pipeline.data.read.text import BLOCK
from pipeline.errors import PipelineError

_LONGEST_VALUE = 1 << 26  # characters; beyond, a quote was hardly meant to be closed
_SHOWN = 8
_TELLING = 20  # lines that tell how a file is parted whose header does not
_NUMBER = re.compile(r"[-+]?\d+([.,]\d+)*%?")
_LONGEST_NAME, _MOST_WORDS = 60, 5  # of a column
_ROWS_AT_ONCE = 500
_ARROW_FILE, _ARROW_STREAM_END = b"ARROW1", b"\xff\xff\xff\xff\0\0\0\0"
_SEPARATOR = re.compile(r'"?sep=(.)"?')
_DAMAGED = "Export the file again."


def csv_rows(path: str, text: TextIO, delimiter: str, known: Collection[str] = ()) -> Iterator[Row]:
    """One row a record, by the names in the header; every value stays text, blank lines are no records.

    A first line that is plainly a row, with none of the `known` names of columns in it, is no header.

    Where the header is not parted by `delimiter`, but by a semicolon (as Excel writes where a comma is the decimal
    sign) or a tab, the file is. A line `sep=;` before the header, as Excel reads it, says so itself.

    Raises PipelineError for a header that is missing, and for broken quoting: where a record
    ends is then unknown, so every row after it would be a guess.
    """
    csv.field_size_limit(_LONGEST_VALUE)
    ahead = [text.readline()]
    while ahead[-1].isspace():
        ahead.append(text.readline())
    said = _SEPARATOR.fullmatch(ahead[-1].strip())
    known = {name.lower() for name in known}
    delimiter = said[1] if said else _delimiter_of(ahead, text, delimiter, known)
    records = _records(path, csv.reader(chain(ahead, text), strict=True, delimiter=delimiter))
    if said:
        next(records)
    first, names = next(records, (1, []))
    if not names:
        raise nothing_in(path)
    names = [name.strip() for name in names]
    if not _names_of(names) & known and any(map(_is_value, names)):
        raise _no_header(path, first, names, delimiter)
    if len(set(names)) < len(names):
        raise PipelineError(
            f"{path}:{first}: two columns of the header have the same name: {', '.join(names)}.",
            "The first line has to name the columns, each by its own name.",
        )
    empty = True
    for line, values in records:
        empty = False
        value = dict(zip(names, values, strict=False))
        if len(values) != len(names):
            problem = f"{_columns(len(values))}, but the header has {len(names)}"
            yield Row(path, line, value if len(values) < len(names) else values, problem)
        else:
            yield Row(path, line, value, _nul(values))
    if empty:
        raise PipelineError(
            f"{path}: the file is empty but for its header ({', '.join(names)}).",
            "Give a file with at least one row; the first line names the columns.",
        )


def _is_value(cell: str) -> bool:
    """Whether a cell can hardly be a column's name: a number, or words of some length."""
    return bool(_NUMBER.fullmatch(cell)) or len(cell) > _LONGEST_NAME or len(cell.split()) > _MOST_WORDS


def _no_header(path: str, line: int, cells: list[str], delimiter: str) -> PipelineError:
    shown = " | ".join(" ".join(cell[:50].split()) + "..." * (len(cell) > 50) for cell in cells[:_SHOWN])
    example = {1: ["text"], 2: ["prompt", "completion"], 3: ["prompt", "chosen", "rejected"]}
    names = example.get(len(cells), ["prompt", "completion", *(f"column{n}" for n in range(3, len(cells) + 1))])
    return PipelineError(
        f"{path}:{line}: the first line has to name the columns, and it looks like a row: {shown}",
        f"Put a line with their names before it, such as {delimiter.join(names[:_SHOWN])}. If these are the names, say "
        "in data.columns (--column) which is which.",
    )


def _delimiter_of(ahead: list[str], text: TextIO, expected: str, known: Collection[str]) -> str:
    """What parts the values: the one by which the header has a known name; else all of the first rows as many values.

    `ahead` are the lines that were read, the header the last of them; more are read where it alone does not tell.
    """
    choices = dict.fromkeys((expected, ";", "\t"))
    parted = {one: _parted(ahead[-1:], one) for one in choices}
    if found := [one for one, rows in parted.items() if rows and _names_of(rows[0]) & {*known}]:
        return found[0]
    several = sorted(
        (one for one, rows in parted.items() if rows and len(rows[0]) > 1), key=lambda one: one != expected
    )
    if len(several) > 1:
        header = len(ahead) - 1
        ahead += islice(text, _TELLING)
        rows = {one: _parted(ahead[header:], one) for one in several}
        alike = [one for one in several if len({len(row) for row in rows[one]}) == 1]
        # A comma in a sentence has a space behind it.
        return min(alike, key=lambda one: _begin_with_space(rows[one]), default=several[0])
    return several[0] if several else expected


def _parted(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    """As far as they can be: the last row may go on in a line that was not read, or the quoting be broken."""
    rows = []
    with suppress(csv.Error):
        for row in csv.reader(lines, strict=True, delimiter=delimiter):
            rows.append(row)
    return [row for row in rows if row]


def _begin_with_space(rows: Sequence[list[str]]) -> int:
    return sum(value.startswith(" ") for row in rows for value in row[1:])


def _names_of(header: Sequence[str]) -> set[str]:
    return {name.strip().lower() for name in header}


def _columns(number: int) -> str:
    return f"{number} column{'' if number == 1 else 's'}"


def _nul(values: Iterable[str]) -> str:
    if any("\0" in value for value in values):
        return "holds a NUL character: the file is damaged, or in another encoding (data.encoding)"
    return ""


class _Reader(Protocol):
    """What csv.reader gives."""

    @property
    def line_num(self) -> int: ...

    def __next__(self) -> list[str]: ...


def _records(path: str, reader: _Reader) -> Iterator[tuple[int, list[str]]]:
    """Each record and the line that it starts on."""
    line = 1
    while True:
        try:
            record = next(reader, None)
        except csv.Error as error:
            raise _broken_quoting(path, line, error, reader) from None
        if record is None:
            return
        if record:
            yield line, record
        line = reader.line_num + 1


def _broken_quoting(path: str, line: int, error: csv.Error, reader: _Reader) -> PipelineError:
    """With the places that follow, so that they can be mended at once."""
    places: list[str] = []
    while len(places) < _SHOWN:
        start = reader.line_num + 1
        try:
            if next(reader, None) is None:
                break
        except csv.Error:
            places.append(str(start))
    more = f" Likely also on line {', '.join(places)}." if places else ""
    return PipelineError(
        f"{path}:{line}: the quoting is broken in the row that starts here ({error}); rows after it cannot be told "
        f"apart.{more}",
        'A value with quotes, line ends or the delimiter stands in quotes, and every quote within it is doubled ("").',
    )


def text_rows(path: str, text: TextIO, separator: str | None) -> Iterator[Row]:
    """Each document as {"text": ...}, without the line feeds around it; its line is that of its first text.

    Nothing but white space after the last separator is no document; a blank one before it is.
    """
    separator = (separator or "").replace("\r\n", "\n").replace("\r", "\n")  # as in the text
    documents = _split(text, separator) if separator else [text.read()]
    line, waiting, number = 1, None, 0  # rows given
    for document in documents:
        if waiting is not None:
            yield waiting
            number += 1
        kept = document.strip("\n")
        starts = line + len(document) - len(document.lstrip("\n")) if kept else line
        waiting = Row(path, starts, {"text": kept}, _nul([kept]))
        line += document.count("\n") + separator.count("\n")
    if waiting is not None and kept.strip():
        yield waiting
    elif not number:
        raise nothing_in(path)


def _split(text: TextIO, separator: str) -> Iterator[str]:
    buffer, searched = "", 0
    # As much again as is held, so that a long document is not copied once for every block.
    while block := text.read(max(BLOCK, len(buffer))):
        buffer += block
        at = 0
        while (found := buffer.find(separator, max(at, searched))) >= 0:
            yield buffer[at:found]
            at = found + len(separator)
        buffer = buffer[at:]
        searched = max(0, len(buffer) - len(separator) + 1)
    yield buffer


def parquet_rows(place: str, path: str) -> Iterator[Row]:
    """`path` is where the file lies, `place` what it is called.

    Raises PipelineError where it is not Parquet or is damaged.
    """
    from pyarrow import parquet

    # Without these a whole row group lies in memory, and often a file has only one.
    with _table(place, "Parquet"), parquet.ParquetFile(path, pre_buffer=False, buffer_size=BLOCK) as file:
        yield from _table_rows(place, file.iter_batches(_ROWS_AT_ONCE))


def arrow_rows(place: str, path: str) -> Iterator[Row]:
    """An IPC file or stream; the content decides. Raises PipelineError where it is neither or is damaged."""
    import pyarrow
    from pyarrow import ipc

    with _table(place, "Arrow"), pyarrow.memory_map(path) as source:
        if source.read(len(_ARROW_FILE)) == _ARROW_FILE:
            file = ipc.open_file(source)
            yield from _table_rows(place, (file.get_batch(n) for n in range(file.num_record_batches)))
            return
        source.seek(0)
        yield from _table_rows(place, ipc.open_stream(source))
        ended = source.tell()
        source.seek(max(0, ended - len(_ARROW_STREAM_END)))
        if ended < source.size() or source.read() != _ARROW_STREAM_END:
            raise PipelineError(f"{place}: the Arrow stream does not end with an end mark: rows are lost.", _DAMAGED)


def _table_rows(path: str, batches: Iterable) -> Iterator[Row]:
    before = 0
    for batch in batches:
        batch.validate(full=True)  # a damaged buffer would be read beyond its end
        for start in range(0, batch.num_rows, _ROWS_AT_ONCE):
            values = batch.slice(start, _ROWS_AT_ONCE).to_pylist()
            yield from (Row(path, number, value) for number, value in enumerate(values, start=before + start + 1))
        before += batch.num_rows


@contextmanager
def _table(path: str, name: str) -> Iterator[None]:
    """What pyarrow says of a file that it cannot read, as a PipelineError."""
    from pyarrow import ArrowException

    try:
        yield
    except (ArrowException, OSError, ValueError, OverflowError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PipelineError(f"{path}: cannot be read as {name}: {said}", _DAMAGED) from None
