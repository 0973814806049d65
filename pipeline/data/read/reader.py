"""Files to rows. Every row knows the file and the line it starts on; nothing is skipped in silence."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from pipeline.data.read import content, hub_files
from pipeline.data.read.containers import arrow_rows, csv_rows, parquet_rows, text_rows
from pipeline.data.read.files import container, files
from pipeline.data.read.json_rows import json_rows
from pipeline.data.read.row import Row, nothing_in
from pipeline.data.read.text import known_encoding, opened
from pipeline.data.shapes.examples import FIELDS
from pipeline.data.source import Source
from pipeline.errors import PipelineError
from pipeline.hub import data_set

__all__ = ["Row", "files", "read", "read_rows"]


def read(
    paths: str | Sequence[str],
    *,
    config: str | None = None,
    split: str | None = None,
    revision: str = "main",
    encoding: str = "utf-8",
    separator: str | None = None,
    columns: Collection[str] = (),
) -> Iterator[Row]:
    """The rows of files, folders, globs and data sets of the hub, in order, as a stream.

    Held whole are only a file that is one object, and a plain text that is one document. A file on the
    hub is downloaded when the rows before it have been read.

    The content tells Parquet, Arrow, what is compressed and what begins with a byte-order mark, else the suffix; it
    alone tells CSV, TSV and plain text. Everything else is JSON, where the content decides between an array, JSON
    Lines and an object. `separator` parts the documents of a plain text;
    `config` and `split` choose among the files of folders and data sets, `revision` is that of data sets. `columns`
    are names that a CSV's header may have, beside those of the shapes.

    Raises PipelineError where a file is missing, empty, not in `encoding`, or broken so that what
    follows cannot be told apart.
    """
    encoding = known_encoding(encoding)
    if separator == "":
        raise PipelineError("data.separator is empty.", "Leave it out where each file is one document.")
    for path in files(paths, config, split):
        if repository := data_set(path, revision):
            for file in hub_files.of_split(repository, config, split):
                yield from _rows(file.place, file.downloaded(), encoding, separator, columns)
        else:
            yield from _rows(path, path, encoding, separator, columns)


def read_rows(source: Source) -> Iterator[Row]:
    """Rows of a recipe."""
    return read(
        source.paths,
        config=source.config,
        split=source.split,
        revision=source.revision,
        encoding=source.encoding,
        separator=source.separator,
        columns=source.columns.values(),
    )


def _rows(place: str, path: str, encoding: str, separator: str | None, columns: Collection[str]) -> Iterator[Row]:
    """`place` is what rows and messages call the file, `path` is where it lies."""
    if not Path(path).stat().st_size:
        raise nothing_in(place)
    suffix = content.table(path) or container(place)
    if suffix == ".parquet":
        yield from parquet_rows(place, path)
        return
    if suffix == ".arrow":
        yield from arrow_rows(place, path)
        return
    with opened(place, path, encoding) as text:
        if suffix in (".csv", ".tsv"):
            yield from csv_rows(place, text, "," if suffix == ".csv" else "\t", {*FIELDS, *columns})
        elif suffix == ".txt":
            yield from text_rows(place, text, separator)
        else:
            yield from json_rows(place, text)
