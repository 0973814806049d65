"""Columns of rows, made of their bytes: what goes in comes out, of every kind of rows, and of none."""

import numpy
import pytest

from pipeline.data.prepare import table
from pipeline.data.shapes.kinds import KINDS


@pytest.mark.parametrize("rows", [0, 1, 9])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_what_goes_into_a_table_comes_out(kind, rows):
    pieces = [
        {name: numpy.arange(n, dtype=numpy.int32) for name in kind.COLUMNS}
        | dict.fromkeys(kind.NUMBERS, n / 2)
        | {"place": f"zwölf.jsonl:{n}", "first": n % 3 == 0, "prompt_hash": 2**64 - 1 - n, "cut": n, "part": n - 1}
        | {"example": b"\x00\xff" * n}
        for n in range(rows)
    ]
    made = table.batch(kind, pieces)
    made.validate(full=True)
    assert made.schema == table.schema(kind)
    plain = [{key: getattr(one, "tolist", lambda one=one: one)() for key, one in row.items()} for row in pieces]
    assert made.to_pylist() == plain
    for name in ("first", "prompt_hash", "cut", "part"):
        assert table.values(made.column(name)).tolist() == [row[name] for row in pieces]
    assert made.filter(table.flags([row["first"] for row in pieces])).to_pylist() == plain[::3]
