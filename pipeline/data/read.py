"""Files to rows. Every row knows the file and the line it starts on; nothing is skipped in silence."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.data.containers import arrow_rows, csv_rows, parquet_rows, text_rows
from pipeline.data.files import container, files
from pipeline.data.json_rows import json_rows
from pipeline.data.row import Row, nothing_in
from pipeline.data.text import known_encoding, opened
from pipeline.errors import PipelineError

__all__ = ["Row", "files", "read"]


def read(paths: str | Sequence[str], *, encoding: str = "utf-8", separator: str | None = None) -> Iterator[Row]:
    """The rows of files, folders and globs, in order, as a stream.

    Held whole are only a file that is one object, and a plain text that is one document.

    The suffix tells CSV, TSV, plain text, Parquet and Arrow; everything else is JSON, where the content
    decides between an array, JSON Lines and an object. `separator` parts the documents of a plain text.

    Raises PipelineError where a file is missing, empty, not in `encoding`, or broken so that what
    follows cannot be told apart.
    """
    encoding = known_encoding(encoding)
    if separator == "":
        raise PipelineError("data.separator is empty.", "Leave it out where each file is one document.")
    for path in files(paths):
        yield from _rows(path, encoding, separator)


def _rows(path: str, encoding: str, separator: str | None) -> Iterator[Row]:
    if not Path(path).stat().st_size:
        raise nothing_in(path)
    suffix = container(path)
    if suffix == ".parquet":
        yield from parquet_rows(path)
        return
    if suffix == ".arrow":
        yield from arrow_rows(path)
        return
    with opened(path, encoding) as text:
        if suffix in (".csv", ".tsv"):
            yield from csv_rows(path, text, "," if suffix == ".csv" else "\t")
        elif suffix == ".txt":
            yield from text_rows(path, text, separator)
        else:
            yield from json_rows(path, text)
