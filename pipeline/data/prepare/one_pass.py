"""The rows of a stage in one pass: read, checked, split, tokenized and written to disk, with their account.

What stays in memory are numbers: a million rows need no more of it than a thousand but for eight bytes and a place
each, by which rows that say the same are found.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy

from pipeline.data.prepare import mixture, split, table
from pipeline.data.prepare.account import SAME, Account, Ledger
from pipeline.data.prepare.kinds import PROBED, looks_like
from pipeline.data.prepare.label_fields import LabelFields
from pipeline.data.prepare.pool import in_order
from pipeline.data.prepare.sides import HELD_OUT, TRAINED, Sides
from pipeline.data.prepare.subset import Subset
from pipeline.data.prepare.work import CHUNK, Chunk, Outcome, Work, Worked, rows_of, subset_of
from pipeline.data.read.reader import Row
from pipeline.data.shapes.kinds import KINDS, Kind
from pipeline.data.shapes.kinds.kind import from_bytes
from pipeline.data.source import Data, Source
from pipeline.data.tokens.encoder import Encoder
from pipeline.data.tokens.words import Words

if TYPE_CHECKING:
    from datasets import Dataset

ACCOUNT = "account.json"


@dataclass(frozen=True)
class Prepared:
    """The prepared rows of a stage, in a folder."""

    folder: Path
    kind: str

    @cached_property
    def account(self) -> Account:
        return Account.from_json(json.loads((self.folder / ACCOUNT).read_text(encoding="utf-8")))

    @cached_property
    def trained(self) -> "Dataset":
        return table.table(self.folder / TRAINED)

    @cached_property
    def held_out(self) -> "Dataset":
        return table.table(self.folder / HELD_OUT)

    def placed(self) -> Iterator[tuple[str, Kind]]:
        """(file and line, example) of every row, those held out as well."""
        for rows in (self.trained, self.held_out):
            for some in rows.select_columns(["place", "example"]).iter(table.BATCH):
                for place, example in zip(some["place"], some["example"], strict=True):
                    yield place, from_bytes(KINDS[self.kind], example)

    def examples(self, rows: "Dataset") -> Sequence[Kind]:
        """What these rows were made from; nothing of texts, which may be long and are not asked for."""
        kind = KINDS[self.kind]
        return table.Examples(rows, kind) if kind.ASKS else []


@dataclass(frozen=True, slots=True)
class Enough:
    """What a training can use up; where rows are packed it is counted in tokens."""

    pieces: int = 0  # of texts there may be several a row
    tokens: int = 0


@dataclass(slots=True)
class Taken:
    """What there is to train on from one part of the data."""

    rows: int = 0
    pieces: int = 0
    tokens: int = 0
    ended: bool = False  # there are no more


def prepare(
    data: Data,
    kind: str,
    encoder: Encoder | Words | None,
    folder: Path,
    *,
    enough: Enough | None = None,
    threads: int = 1,
    progress: Callable[[int], None] = lambda rows: None,
) -> Prepared:
    """Prepare the rows of a stage into `folder`, which is there and empty. `progress` is told the rows read so far.

    All rows are read, or with `data.streaming` as many as are `enough`; the account is then marked as partial.

    `data.held_out` is a share, or rows of their own. A share is cut by the hash of the prompt, so that a question
    never stands on both sides and rows added later move none (but see split). With `on_bad_row: error` nothing is
    tokenized any more once a row was not understood: the rest is read only to count all that are bad. With
    `data.max_rows` the files are read twice: which rows it leaves only all of them tell.
    """
    subset = subset_of(data, kind)
    with Ledger(folder) as ledger, Pass(data, kind, ledger, folder, subset) as done:
        with closing(in_order(Work(data, kind, encoder, subset), _chunks(data, kind, done), threads)) as worked:
            for chunk, result in worked:
                if chunk.part is not None and chunk.rows and done.has(enough):
                    ledger.account.partial = True
                    break
                done.take(chunk, result)
                progress(ledger.account.read)
        done.finish()
        account = json.dumps(ledger.account.to_json(), ensure_ascii=False)
    (folder / ACCOUNT).write_text(account, encoding="utf-8", errors="backslashreplace")
    return Prepared(folder, kind)


class Pass:
    """One row after the other: dropped, or written to its side."""

    def __init__(self, data: Data, kind: str, ledger: Ledger, folder: Path, subset: Subset | None = None):
        self.data, self.ledger, self.subset, self._kind = data, ledger, subset, kind
        self._strange: list[tuple[Row, Source]] = []  # the first rows that were not understood
        self._seen: dict[int, str] = {}  # sameness: place
        self._share = data.held_out if isinstance(data.held_out, float) else 0.0
        self._parts = [Taken() for _ in data.parts]
        self._shortened: dict[str, list[tuple[Row, Outcome]]] = defaultdict(
            list
        )  # by place; weights may leave them out
        self._sides = Sides(folder, KINDS[kind])

    def __enter__(self) -> "Pass":
        return self

    def __exit__(self, *_) -> None:
        self._sides.close()

    @property
    def not_understood(self) -> bool:
        return bool(self._strange)

    def take(self, chunk: Chunk, worked: Worked) -> None:
        if not chunk.rows:
            if chunk.part is not None:
                self._parts[chunk.part].ended = True
            return
        outcomes = worked.outcomes
        if self.not_understood and self.data.on_bad_row == "error":
            # Nothing is tokenized any more. What was, because a thread was ahead, does not count.
            outcomes = [one if one.sameness is None else replace(one, reason="", cut=0, unshown=()) for one in outcomes]
        sides = numpy.array(
            [self._side(*one, chunk.part is None) for one in zip(chunk.rows, outcomes, strict=True)],
            dtype=object,
        )
        source = self.data.source_of(chunk.part)
        strange = ((row, source) for row, one in zip(chunk.rows, outcomes, strict=True) if one.sameness is None)
        self._strange += islice(strange, PROBED - len(self._strange))
        account, trained = self.ledger.account, int((sides == TRAINED).sum())
        account.read += len(sides)
        account.trained += trained
        account.held_out += int((sides == HELD_OUT).sum())
        for name in (TRAINED, HELD_OUT):
            if (chosen := sides[worked.row_of] == name).any():
                batch = worked.pieces.filter(table.flags(chosen))
                self._sides.write(name, batch)
                if name == TRAINED and chunk.part is not None:
                    part = self._parts[chunk.part]
                    part.rows += trained
                    part.pieces += len(batch)
                    part.tokens += len(batch.column(0).flatten())

    def has(self, enough: Enough | None) -> bool:
        """Whether there is enough, or more cannot be used.

        Of each part only what the weights will leave of it counts.
        """
        if enough is None:
            return False
        rows, weights = [part.rows for part in self._parts], self.data.weights
        shares = mixture.shares(rows, weights) if weights else rows
        left = [(part, share / part.rows) for part, share in zip(self._parts, shares, strict=True) if share]
        if (
            sum(part.pieces * share for part, share in left) >= enough.pieces
            and sum(part.tokens * share for part, share in left) >= enough.tokens
        ):
            return True
        if not weights or not any(part.ended for part in self._parts):
            return False
        most = min(part.rows / weight for part, weight in zip(self._parts, weights, strict=True) if part.ended)
        return all(part.rows >= most * weight for part, weight in zip(self._parts, weights, strict=True))

    def finish(self) -> None:
        """Say what the rows are where they are not what they were taken for; hold out what was asked for, as nearly as
        may be; leave out what weights have no room for."""
        account = self.ledger.account
        if self._strange and account.nearly_all_bad:
            account.looks_like = looks_like(self._strange, self._kind)
        self._sides.close()
        if self._share:
            more = self._sides.hold_out(self._share)
            account.held_out += more
            account.trained -= more
            if split.is_far_from(account.held_out, account.held_out + account.trained, self._share):
                account.held_out_asked = self._share
        for place in self._sides.weigh(self.data.weights) if self.data.weights else ():
            name, _, line = place.rpartition(":")
            self.ledger.drop(Row(name, int(line), None), mixture.LEFT_OUT, bad=False)
            account.trained -= 1
            if self._shortened[place]:
                self._shortened[place].pop()
        for row, outcome in chain.from_iterable(self._shortened.values()):
            self._list_loss(row, outcome)

    def _side(self, row: Row, outcome: Outcome, held_out: bool) -> str | None:
        """Where the row goes; None if nowhere."""
        if not held_out and self._beyond(outcome):
            self.ledger.beyond(row)
            return None
        self.ledger.end_run()
        if outcome.sameness is None:
            self.ledger.drop(row, outcome.reason)
        elif outcome.reason:
            self.ledger.drop(row, outcome.reason, bad=outcome.bad)
        elif self._again(row, outcome) and self.data.duplicates == "drop":
            self.ledger.drop(row, SAME, bad=False)
        else:
            side = HELD_OUT if held_out or outcome.prompt_hash < self._share * 2**64 else TRAINED
            if outcome.garbled:
                self.ledger.garbled(row)
            if outcome.doubt:
                self.ledger.doubtful(row, outcome.doubt)
            if self.data.weights and (outcome.cut or outcome.unshown):
                self._shortened[row.place].append((replace(row, value=None), outcome))
            else:
                self._list_loss(row, outcome)
            return side
        return None

    def _list_loss(self, row: Row, outcome: Outcome) -> None:
        """What of a row that is kept is not."""
        if outcome.cut:
            self.ledger.cut(row, outcome.cut, outcome.answer_cut)
        if outcome.unshown:
            self.ledger.unshown(row, outcome.unshown)

    def _beyond(self, outcome: Outcome) -> bool:
        """Whether max_rows leaves the row out."""
        if self.subset is None or outcome.sameness is None:
            return False
        return not self.subset.take(outcome.prompt_hash, outcome.sameness)

    def _again(self, row: Row, outcome: Outcome) -> bool:
        """Whether an earlier row says the same. Pairs that one has the other way are put on record, too."""
        if outcome.opposite is not None and outcome.opposite in self._seen:
            self.ledger.opposite(row, self._seen[outcome.opposite])
        assert outcome.sameness is not None  # it was understood
        if (first := self._seen.get(outcome.sameness)) is None:
            self._seen[outcome.sameness] = row.place
            return False
        self.ledger.same(row, first)
        return True


def _chunks(data: Data, kind: str, done: Pass) -> Iterator[Chunk]:
    """Held-out rows of their own, then the parts: one by one, or in turn where they may not be read to the end."""
    if data.held_out_rows:
        yield from _of(None, data.held_out_rows, data, kind, done)
    parts: list[Iterator[Chunk] | None] = [
        _of(number, part, data, kind, done) for number, part in enumerate(data.parts)
    ]
    if not data.streaming:
        yield from chain.from_iterable(part for part in parts if part)
        return
    weights, given = data.weights or [1.0] * len(parts), [0] * len(parts)
    while open_ones := {number: part for number, part in enumerate(parts) if part is not None}:
        number = min(open_ones, key=lambda number: given[number] / weights[number])
        given[number] += 1
        if (chunk := next(open_ones[number], None)) is None:
            parts[number] = None
            chunk = Chunk([], number, checked_only=True)  # says that it has ended
        yield chunk


def _of(part: int | None, source: Source, data: Data, kind: str, done: Pass) -> Iterator[Chunk]:
    rows, label_fields = rows_of(source, kind), LabelFields(source)
    while some := list(islice(rows, CHUNK)):
        checked_only = done.not_understood and data.on_bad_row == "error"
        yield Chunk(some, part, checked_only=checked_only, label_fields=label_fields.of(some))
