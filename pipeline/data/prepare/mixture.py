"""A mixture by weights: each part's share of the trained rows, made by leaving rows of the other parts out."""

from collections.abc import Iterator, Sequence

import numpy
import pyarrow

from pipeline.data.prepare.table import PROMPT_HASH, flags, values

LEFT_OUT = "left out for the mixture's weights"


def shares(rows: Sequence[int], weights: Sequence[float]) -> list[int]:
    """How many rows of each part are taken, so that they are as the weights and as many as can be: none is repeated."""
    whole = min(n / weight for n, weight in zip(rows, weights, strict=True))
    return [min(int(whole * weight + 1e-9), n) for n, weight in zip(rows, weights, strict=True)]


def chosen(table: pyarrow.Table, weights: Sequence[float]) -> numpy.ndarray:
    """(rows,) which of them are taken: of each part those whose prompts have the smallest hashes.

    So it is a random choice that stays the same. A text in several pieces is one row.
    """
    first = begins(table)
    part, prompt_hash = (values(table.column(name))[first] for name in ("part", PROMPT_HASH))
    taken: numpy.ndarray = numpy.zeros(len(part), dtype=bool)
    for number, share in enumerate(shares(numpy.bincount(part, minlength=len(weights)).tolist(), weights)):
        (here,) = numpy.nonzero(part == number)
        taken[here[numpy.argsort(prompt_hash[here], kind="stable")[:share]]] = True
    return taken


def row_of(table: pyarrow.Table) -> numpy.ndarray:
    """(pieces,) the row that each belongs to, counted from 0."""
    return numpy.cumsum(begins(table)) - 1


def left_out(table: pyarrow.Table, taken: numpy.ndarray) -> Iterator[str]:
    """The place of every row that is not taken."""
    gone = begins(table)
    gone[gone] = ~taken
    for batch in table.select(["place"]).filter(flags(gone)).to_batches():
        yield from batch.column("place").to_pylist()


def rows_in(table: pyarrow.Table) -> int:
    return int(begins(table).sum())


def begins(table: pyarrow.Table) -> numpy.ndarray:
    """(pieces,) where a row begins."""
    return values(table.column("first")).astype(bool)
