"""A mixture by weights: each part's share of the trained rows, made by leaving rows of the other parts out."""

from collections.abc import Iterator, Sequence

import numpy
import pyarrow
import pyarrow.compute

LEFT_OUT = "left out for the mixture's weights"


def shares(rows: Sequence[int], weights: Sequence[float]) -> list[int]:
    """How many rows of each part are taken, so that they are as the weights and as many as can be: none is repeated."""
    whole = min(n / weight for n, weight in zip(rows, weights, strict=True))
    return [min(int(whole * weight + 1e-9), n) for n, weight in zip(rows, weights, strict=True)]


def chosen(table: pyarrow.Table, weights: Sequence[float]) -> numpy.ndarray:
    """(rows of the table,) which of them are taken: of each part those whose prompts have the smallest numbers.

    These are hashes, so it is a random choice that stays the same; the pieces of one text go together.
    """
    part, asked = (table.column(name).to_numpy() for name in ("part", "asked"))
    begins = _begins(table)
    row_of = numpy.cumsum(begins) - 1
    part, asked = part[begins], asked[begins]
    taken = numpy.zeros(len(part), dtype=bool)
    for number, share in enumerate(shares(numpy.bincount(part, minlength=len(weights)).tolist(), weights)):
        (here,) = numpy.nonzero(part == number)
        taken[here[numpy.argsort(asked[here], kind="stable")[:share]]] = True
    return taken[row_of]


def left_out(table: pyarrow.Table, taken: numpy.ndarray) -> Iterator[str]:
    """The place of every row that is not taken, once."""
    for batch in table.select(["place"]).filter(pyarrow.array(_begins(table) & ~taken)).to_batches():
        yield from batch.column("place").to_pylist()


def _begins(table: pyarrow.Table) -> numpy.ndarray:
    """Where in the table a row begins: the pieces of a text have its place."""
    places = table.column("place").combine_chunks()
    same = pyarrow.compute.equal(places[1:], places[:-1]).to_numpy(zero_copy_only=False)
    return numpy.concatenate([numpy.ones(min(len(table), 1), dtype=bool), ~same.astype(bool)])
