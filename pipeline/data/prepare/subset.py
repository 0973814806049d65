"""Which rows `max_rows` leaves: the first ones in the order of a hash of what they say, wherever they stand.

So the same rows are chosen whatever their order in the files, and a larger max_rows has those of a smaller one among
its own. What is held out is a share by the same hash: its digits are read backwards here, so that the share stays one.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy


@dataclass
class Subset:
    """Takes rows by their numbers (see shapes.sameness), as many as there is room for."""

    last: tuple[int, int]  # where in the order the last one stands
    room: int  # for rows that stand at that very place: they say the same

    @classmethod
    def of(cls, numbers: Iterable[tuple[int, int]], most: int, *, each_once: bool) -> "Subset | None":
        """The first `most` of rows given by their prompt's hash and their sameness; None where that is all of them.

        `each_once`: rows that say the same count as one.
        """
        every = rows = numpy.fromiter(numbers, dtype=[("place", "u8"), ("said", "u8")])
        if each_once:
            rows = numpy.unique(every)
        if len(rows) <= most:
            return None
        rows["place"].byteswap(inplace=True)
        order = numpy.lexsort((rows["said"], rows["place"]))
        last = rows[order[most - 1]]
        room = len(every) if each_once else int((rows[order[:most]] == last).sum())
        return cls((int(last["place"]), int(last["said"])), room)

    def may_take(self, prompt_hash: int, said: int) -> bool:
        """Whether there would be room if no row said the same as this one."""
        return _place(prompt_hash, said) <= self.last

    def take(self, prompt_hash: int, said: int) -> bool:
        """Whether this row, which is the next one, is taken."""
        if (place := _place(prompt_hash, said)) != self.last:
            return place < self.last
        self.room -= 1
        return self.room >= 0


def _place(prompt_hash: int, said: int) -> tuple[int, int]:
    return int.from_bytes(prompt_hash.to_bytes(8, "little"), "big"), said
