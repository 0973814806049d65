"""The same few rows in every container that is read, for the tests of reading."""

import bz2
import csv
import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from pipeline.data.read.reader import read
from pipeline.errors import PipelineError

ROWS = [
    {"prompt": "what is red?", "completion": 'a "colour",\nof course'},
    {"prompt": "什么是红色？", "completion": "颜色"},
    {"prompt": "", "completion": "tab\there"},
]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def write_csv(path, rows=ROWS, delimiter=",", ending="\r\n"):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter, lineterminator=ending)
        writer.writeheader()
        writer.writerows(rows)


def write_arrow_file(path, table):
    with pyarrow.ipc.new_file(path, table.schema) as file:
        file.write_table(table, max_chunksize=2)


def write_arrow_stream(path, table):
    with pyarrow.ipc.new_stream(path, table.schema) as file:
        file.write_table(table, max_chunksize=2)


def as_table(rows=ROWS):
    return pyarrow.Table.from_pylist(rows)


WRITERS = {
    "array.json": lambda path: path.write_text(json.dumps(ROWS)),
    "pretty.json": lambda path: path.write_text(json.dumps(ROWS, indent=2)),
    "lines.jsonl": lambda path: path.write_text(LINES),
    "wrapped.json": lambda path: path.write_text(json.dumps({"version": 1, "data": ROWS, "tags": ["a"]})),
    "pretty_wrapped.json": lambda path: path.write_text(json.dumps({"data": ROWS, "n": {"a": 1}}, indent=2)),
    "rows.csv": write_csv,
    "rows.tsv": lambda path: write_csv(path, delimiter="\t", ending="\n"),
    "rows.parquet": lambda path: pyarrow.parquet.write_table(as_table(), path, row_group_size=2),
    "file.arrow": lambda path: write_arrow_file(path, as_table()),
    "stream.arrow": lambda path: write_arrow_stream(path, as_table()),
}
COMPRESSORS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": lambda data: pyarrow.compress(data, codec="zstd", asbytes=True),
}


def refused(path, **options):
    with pytest.raises(PipelineError) as error:
        list(read(str(path), **options))
    return str(error.value)


def written(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)
