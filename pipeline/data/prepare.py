"""The rows of a stage in one pass: read, checked, split, tokenised and written to disk, with their account.

What stays in memory are numbers: a million rows need no more of it than a thousand but for eight bytes and a place
each, by which rows that say the same are found.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

from datasets import Dataset

from pipeline.data import table
from pipeline.data.account import SAME, Account, Ledger
from pipeline.data.example import Example, Preference, to_bytes
from pipeline.data.pool import in_order
from pipeline.data.read import Row, files, read
from pipeline.data.sameness import asked, sameness
from pipeline.data.shape import BadRow, shape
from pipeline.data.tokenise import Encoded, Tokeniser, TooLong
from pipeline.recipe import Data

LARGE = 64 << 20  # bytes of files: below, further processes would have more to load than to do
CHUNK = 1000  # rows worked on in one go: the tokenizer takes them in parallel
TRAINED, HELD_OUT, ACCOUNT = "trained.arrow", "held_out.arrow", "account.json"


@dataclass(frozen=True)
class Prepared:
    """The prepared rows of a stage, in a folder."""

    folder: Path
    kind: str

    @cached_property
    def account(self) -> Account:
        return Account.from_json(json.loads((self.folder / ACCOUNT).read_text(encoding="utf-8")))

    @cached_property
    def trained(self) -> Dataset:
        return table.table(self.folder / TRAINED)

    @cached_property
    def held_out(self) -> Dataset:
        return table.table(self.folder / HELD_OUT)

    def examples(self, rows: Dataset) -> Sequence[Example]:
        """What these rows were made from; nothing of texts, which may be long and are not asked for."""
        return [] if self.kind == "text" else table.Examples(rows, self.kind)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a row says, in numbers, and its tokens; or the reason why it cannot be trained on."""

    reason: str = ""
    bad: bool = False  # not one that the recipe asked to leave out
    asked: int = 0
    sameness: int | None = None  # None: it says nothing that could be understood
    opposite: int | None = None  # the sameness of the pair the other way
    example: bytes = b""
    encoded: Encoded | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    rows: list[Row]
    held_out: bool  # they come from a file of their own
    checked_only: bool  # there is a bad row already: nothing will be trained


@dataclass(frozen=True)
class Work:
    """What is done to each row by itself. Without a tokeniser the rows are only checked."""

    data: Data
    kind: str
    tokeniser: Tokeniser | None

    def __call__(self, chunk: Chunk) -> list[Outcome]:
        shaped = [self.shaped(row) for row in chunk.rows]
        good = [one for one in shaped if not isinstance(one, BadRow)]
        encode = self.tokeniser is not None and not chunk.checked_only
        encoded = iter(self.tokeniser.encode(good, self.kind) if encode else [None] * len(good))
        return [
            Outcome(str(one), bad=True) if isinstance(one, BadRow) else self._outcome(one, next(encoded))
            for one in shaped
        ]

    def shaped(self, row: Row) -> Example | BadRow:
        if row.problem:
            return BadRow(row.problem)
        try:
            return shape(row.value, self.kind, columns=self.data.columns, named=self.data.shape)
        except BadRow as bad:
            return bad

    def _outcome(self, example: Example, encoded: Encoded | BadRow | None) -> Outcome:
        refused = encoded if isinstance(encoded, BadRow) else None
        turned = self.kind == "preference" and Preference(
            example.messages, example.rejected, example.chosen, example.tools
        )
        return Outcome(
            reason=str(refused or ""),
            bad=refused is not None and not (isinstance(refused, TooLong) and self.data.on_too_long == "drop"),
            asked=asked(example),
            sameness=sameness(example),
            opposite=sameness(turned) if turned else None,
            example=b"" if self.kind == "text" else to_bytes(example),
            encoded=None if refused else encoded,
        )


def prepare(
    data: Data,
    kind: str,
    tokeniser: Tokeniser | None,
    folder: Path,
    *,
    processes: int = 1,
    progress: Callable[[int], None] = lambda rows: None,
) -> Prepared:
    """Prepare the rows of a stage into `folder`, which is there and empty. `progress` is told the rows read so far.

    `data.held_out` is a share, or a file of its own. A share is cut by the hash of the prompt, so that a question
    never stands on both sides and rows added later move none. With `on_bad_row: error` nothing is tokenised any more
    once a row was not understood: the rest is read only to count all that are bad.
    """
    columns = table.TOKENS[kind] if tokeniser else ()
    with Ledger(folder) as ledger, closing(Pass(data, columns, ledger, folder)) as done:
        chunks = _chunks(data, done)
        with closing(in_order(Work(data, kind, tokeniser), chunks, processes if _large(data) else 1)) as worked:
            for chunk, outcomes in worked:
                for row, outcome in zip(chunk.rows, outcomes, strict=True):
                    done.take(row, outcome, chunk.held_out)
                progress(ledger.account.read)
        said = json.dumps(ledger.account.to_json(), ensure_ascii=False)
    (folder / ACCOUNT).write_text(said, encoding="utf-8", errors="backslashreplace")
    return Prepared(folder, kind)


class Pass:
    """One row after the other: dropped, or written to its side."""

    def __init__(self, data: Data, columns: tuple[str, ...], ledger: Ledger, folder: Path):
        self.data, self.ledger = data, ledger
        self.trained, self.held_out = (table.Writer(folder / name, columns) for name in (TRAINED, HELD_OUT))
        self.seen: dict[int, str] = {}  # sameness: place
        self.not_understood = False

    def close(self) -> None:
        self.trained.close()
        self.held_out.close()

    def take(self, row: Row, outcome: Outcome, held_out: bool) -> None:
        self.ledger.account.read += 1
        if outcome.sameness is None:
            self.not_understood = True
            self.ledger.drop(row, outcome.reason)
        elif self._again(row, outcome) and self.data.duplicates == "drop":
            self.ledger.drop(row, SAME, bad=False)
        elif outcome.reason:
            self.ledger.drop(row, outcome.reason, bad=outcome.bad)
        else:
            self._keep(row, outcome, held_out or outcome.asked < self._share * 2**64)

    @property
    def _share(self) -> float:
        return self.data.held_out if isinstance(self.data.held_out, float) else 0.0

    def _again(self, row: Row, outcome: Outcome) -> bool:
        """Whether an earlier row says the same. Pairs that one has the other way are put on record, too."""
        if outcome.opposite in self.seen:
            self.ledger.opposite(row, self.seen[outcome.opposite])
        first = self.seen.setdefault(outcome.sameness, row.place)
        if first == row.place:
            return False
        self.ledger.same(row, first)
        return True

    def _keep(self, row: Row, outcome: Outcome, held_out: bool) -> None:
        side, encoded = self.held_out if held_out else self.trained, outcome.encoded
        if held_out:
            self.ledger.account.held_out += 1
        else:
            self.ledger.account.trained += 1
        if encoded and encoded.cut:
            self.ledger.cut(row, encoded.cut, encoded.answer_cut)
        for piece in encoded.pieces if encoded else [{}]:
            side.add(
                piece,
                place=row.place,
                asked=outcome.asked,
                cut=encoded.cut if encoded else 0,
                example=outcome.example,
            )


def _large(data: Data) -> bool:
    return sum(Path(file).stat().st_size for file in files(data.path)) > LARGE


def _chunks(data: Data, done: Pass) -> Iterator[Chunk]:
    for path, held_out in ((data.path, False), (data.held_out, True)):
        if isinstance(path, float):
            continue
        rows = read(path, encoding=data.encoding, separator=data.separator)
        while some := list(islice(rows, CHUNK)):
            yield Chunk(some, held_out, checked_only=done.not_understood and data.on_bad_row == "error")


def good_rows(data: Data, kind: str) -> Iterator[tuple[Row, Example]]:
    """The rows of `data.path` with what they say; bad ones are left out, for an account will have them."""
    work = Work(data, kind, None)
    for row in read(data.path, encoding=data.encoding, separator=data.separator):
        if not isinstance(example := work.shaped(row), BadRow):
            yield row, example
