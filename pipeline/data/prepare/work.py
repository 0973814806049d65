"""What is done to each row by itself: understood, numbered, tokenized."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy
import pyarrow

from pipeline.data.prepare import table
from pipeline.data.prepare.label_fields import LabelFields
from pipeline.data.prepare.subset import Subset
from pipeline.data.read.reader import Row, read_rows
from pipeline.data.shapes.examples import BadRow, example_of
from pipeline.data.shapes.kinds import KINDS, Kind
from pipeline.data.shapes.kinds.kind import to_bytes
from pipeline.data.shapes.sameness import prompt_hash, said, sameness
from pipeline.data.source import Data, Source
from pipeline.data.tokens.encoded import Encoded
from pipeline.data.tokens.encoder import Encoder
from pipeline.data.tokens.truncation import TooLong
from pipeline.data.tokens.words import Words

_LOST = "锟斤拷"  # two replacement characters of UTF-8, read as GBK
_ENOUGH = 6  # characters beyond ASCII, before their kind tells anything
CHUNK = 1000  # rows worked on in one go: the tokenizer takes them in parallel
_NOTHING = Encoded([defaultdict(lambda: numpy.empty(0, dtype=numpy.int32))])  # of rows that are only checked


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a row says, in numbers; and the reason why it cannot be trained on, if there is one."""

    reason: str = ""
    bad: bool = False  # not one that the recipe asked to leave out
    prompt_hash: int = 0
    sameness: int | None = None  # None: it says nothing that could be understood
    opposite: int | None = None  # the sameness of the pair the other way
    cut: int = 0
    answer_cut: bool = False
    unshown: tuple[int, ...] = ()  # see Encoded
    garbled: bool = False
    doubt: str = ""  # what a good row says against itself


@dataclass(frozen=True, slots=True)
class Chunk:
    rows: list[Row]
    part: int | None  # of the mixture; None where they are held out, and come from a place of their own
    checked_only: bool  # there is a bad row already: nothing will be trained
    label_fields: Mapping[str, Collection[str]] = field(default_factory=dict)  # by file, see LabelFields


@dataclass(frozen=True, slots=True)
class Worked:
    """A chunk after the work: what became of each row, and the table's rows that were made of those to train on."""

    outcomes: list[Outcome]
    pieces: pyarrow.RecordBatch
    row_of: numpy.ndarray  # for each piece the number of its row in the chunk


@dataclass(frozen=True)
class Work:
    """What is done to each row by itself. Without an encoder the rows are only checked; nor are those tokenized that
    are not in the subset.
    """

    data: Data
    kind: str
    encoder: Encoder | Words | None
    subset: Subset | None = None

    def __call__(self, chunk: Chunk) -> Worked:
        source = self.data.source_of(chunk.part)
        examples = [shaped(row, self.kind, source, chunk.label_fields.get(row.file, ())) for row in chunk.rows]
        understood = [self._outcome(one, row) for one, row in zip(examples, chunk.rows, strict=True)]
        wanted = [self._wanted(outcome, chunk) for outcome in understood]
        encoder = None if chunk.checked_only else self.encoder
        some = [one for one, take in zip(examples, wanted, strict=True) if take and not isinstance(one, BadRow)]
        encoded = iter(encoder.encode(some, KINDS[self.kind]) if encoder else [_NOTHING] * len(some))
        outcomes, pieces, row_of = [], [], []
        for place, (example, outcome) in enumerate(zip(examples, understood, strict=True)):
            if not wanted[place] or isinstance(example, BadRow):
                outcomes.append(outcome)
                continue
            made = next(encoded)
            if isinstance(made, BadRow):
                asked_to_go = isinstance(made, TooLong) and self.data.on_too_long == "drop"
                outcomes.append(replace(outcome, reason=str(made), bad=not asked_to_go))
                continue
            if made.cut or made.unshown:
                outcome = replace(outcome, cut=made.cut, answer_cut=made.answer_cut, unshown=made.unshown)
            outcomes.append(outcome)
            beside = {
                "place": chunk.rows[place].place,
                table.PROMPT_HASH: outcome.prompt_hash,
                "cut": made.cut,
                "part": chunk.part or 0,
                "example": to_bytes(example) if example.ASKS else b"",
            }
            pieces += [piece | beside | {"first": not number} for number, piece in enumerate(made.pieces)]
            row_of += [place] * len(made.pieces)
        return Worked(outcomes, table.batch(KINDS[self.kind], pieces), numpy.array(row_of, dtype=int))

    def _wanted(self, outcome: Outcome, chunk: Chunk) -> bool:
        if outcome.sameness is None:
            return False
        return chunk.part is None or not self.subset or self.subset.may_take(outcome.prompt_hash, outcome.sameness)

    def _outcome(self, example: Kind | BadRow, row: Row) -> Outcome:
        if isinstance(example, BadRow):
            return Outcome(str(example), bad=True)
        opposite, text = example.opposite, said(example)
        return Outcome(
            prompt_hash=prompt_hash(example),
            sameness=sameness(text),
            opposite=sameness(said(opposite)) if opposite else None,
            garbled=garbled(text),
            doubt=example.doubt(row.value) if isinstance(row.value, dict) else "",
        )


def rows_of(source: Source, kind: str) -> Iterator[Row]:
    """The rows of a source, taken apart where the recipe asks for it."""
    if source.shape is None:
        return read_rows(source)
    apart = KINDS[kind].apart
    return (
        replace(row, value=value)
        for row in read_rows(source)
        for value in apart(row.value, source.shape, source.columns)
    )


def shaped(row: Row, kind: str, source: Source, label_fields: Collection[str]) -> Kind | BadRow:
    if row.problem:
        return BadRow(row.problem)
    try:
        example = example_of(row.value, kind, columns=source.columns, named=source.shape, label_fields=label_fields)
        said(example).encode()
    except BadRow as bad:
        return bad
    except UnicodeEncodeError as error:
        return BadRow(f"has half of a character ({error.object[error.start]!a}), which no tokenizer can read")
    except RecursionError:
        return BadRow("is nested too deeply")
    return example


def garbled(text: str) -> bool:
    """Whether the text is UTF-8 that somebody read as Latin-1 or Windows-1252 (Ã¤ for ä), or as GBK."""
    if text.isascii():
        return False
    if _LOST in text or _is_read_as_gbk(text):
        return True
    for wrong in ("latin-1", "cp1252"):
        try:
            text.encode(wrong).decode("utf-8")
        except UnicodeError:
            continue
        return True
    return False


def _is_read_as_gbk(text: str) -> bool:
    """Whether the bytes that GBK would write the text in are mostly Chinese in UTF-8: three Chinese characters became four or five.

    What was Chinese in GBK has next to none of it. Some bytes are lost where both were odd.
    """
    strange = sum(not one.isascii() for one in text)
    again = text.encode("gbk", "ignore").decode("utf-8", "ignore")
    chinese = sum("\u3000" <= one <= "\u9fff" or "\uff00" <= one <= "\uffef" for one in again)
    return strange >= _ENOUGH and chinese > strange * 0.4


def subset_of(data: Data, kind: str) -> Subset | None:
    """The rows that `max_rows` leaves, for which all of them are read; None where that is every row."""
    if data.max_rows is None:
        return None
    numbers = ((prompt_hash(one), sameness(said(one))) for _, one in _good_rows(data, kind))
    return Subset.of(numbers, data.max_rows, each_once=data.duplicates == "drop")


def good_rows(data: Data, kind: str, most: int | None = None) -> Iterator[tuple[Row, Kind]]:
    """The rows to train on with what they say, at `most` so many of each part are read.

    Bad ones are left out, for an account will have them.
    """
    subset = subset_of(data, kind)
    for row, example in _good_rows(data, kind, most):
        if subset is None or subset.take(prompt_hash(example), sameness(said(example))):
            yield row, example


def _good_rows(data: Data, kind: str, most: int | None = None) -> Iterator[tuple[Row, Kind]]:
    for source in data.parts:
        rows, label_fields = islice(rows_of(source, kind), most), LabelFields(source)
        while some := list(islice(rows, CHUNK)):
            known = label_fields.of(some)
            for row in some:
                if not isinstance(example := shaped(row, kind, source, known[row.file]), BadRow):
                    yield row, example
