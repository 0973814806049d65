"""The two tables of a stage's rows while they are written, and what is decided of them once all rows are known."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy
import pyarrow

from pipeline.data.prepare import mixture, split, table
from pipeline.data.shapes.kinds import Kind

TRAINED, HELD_OUT = "trained.arrow", "held_out.arrow"


class Sides:
    """Rows to train on and held-out ones, in two files of a folder."""

    def __init__(self, folder: Path, kind: type[Kind]):
        self._folder, self._open = folder, ExitStack()
        self._streams = {
            name: self._open.enter_context(pyarrow.ipc.new_stream(str(folder / name), table.schema(kind)))
            for name in (TRAINED, HELD_OUT)
        }

    def write(self, side: str, batch: pyarrow.RecordBatch) -> None:
        self._streams[side].write_batch(batch)

    def close(self) -> None:
        """No row follows."""
        self._open.close()

    def hold_out(self, share: float) -> int:
        """Move what keeps the held-out rows from being nearly that share of all, see split; closed sides only.

        Returns by how many rows the held-out ones are more, or fewer.
        """
        held_out = table.mapped(self._folder / HELD_OUT)
        trained = table.mapped(self._folder / TRAINED)
        prompts = _prompts(held_out)
        if len(prompts):
            back = split.given_back(prompts, mixture.rows_in(trained) + len(prompts), share)
            return -self._move(held_out, back, HELD_OUT, TRAINED) if back.any() else 0
        taken = split.taken(_prompts(trained), share)
        return self._move(trained, taken, TRAINED, HELD_OUT) if taken.any() else 0

    def weigh(self, weights: Sequence[float]) -> Iterator[str]:
        """Leave out of the trained rows what the weights have no room for, and say the places; closed sides only."""
        rows = table.mapped(self._folder / TRAINED)
        kept = mixture.chosen(rows, weights)
        yield from mixture.left_out(rows, kept)
        self._write(TRAINED, _some(rows, kept))

    def _move(self, rows: pyarrow.Table, going: numpy.ndarray, side: str, other: str) -> int:
        """From one side to the end of the other; how many rows."""
        there = table.mapped(self._folder / other)
        self._write(other, [*there.to_batches(), *_some(rows, going)])
        self._write(side, _some(rows, ~going))
        return int(going.sum())

    def _write(self, side: str, batches: Iterator[pyarrow.RecordBatch] | list[pyarrow.RecordBatch]) -> None:
        """In the place of a file that may be mapped into memory."""
        file, new = self._folder / side, self._folder / f"new-{side}"
        with pyarrow.ipc.open_stream(str(file)) as old, pyarrow.ipc.new_stream(str(new), old.schema) as stream:
            for batch in batches:
                stream.write_batch(batch)
        new.rename(file)


def _prompts(rows: pyarrow.Table) -> numpy.ndarray:
    """(rows,) the hashes of their prompts."""
    return table.values(rows.column(table.PROMPT_HASH))[mixture.begins(rows)]


def _some(rows: pyarrow.Table, wanted: numpy.ndarray) -> Iterator[pyarrow.RecordBatch]:
    """Those of the rows that are wanted, with all their pieces."""
    at, pieces = 0, wanted[mixture.row_of(rows)]
    for batch in rows.to_batches():
        yield batch.filter(table.flags(pieces[at : at + len(batch)]))
        at += len(batch)
