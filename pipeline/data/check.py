"""What would become of a file: its rows, how long they are, and what of them carries loss. Nothing is trained."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy
import pyarrow
import pyarrow.compute

from pipeline.data.prepare import kinds, table
from pipeline.data.prepare.one_pass import Enough, prepare
from pipeline.data.prepare.remarks import remarks
from pipeline.data.prepare.sides import HELD_OUT, TRAINED
from pipeline.data.prepare.work import good_rows
from pipeline.data.shapes.kinds import KINDS, Kind
from pipeline.data.shapes.labels import SAYS_UNWANTED
from pipeline.data.source import Data
from pipeline.data.tokens.encoded import IGNORED
from pipeline.data.tokens.encoder import Encoder
from pipeline.data.tokens.words import Words

PERCENTILES = (5, 25, 50, 75, 95, 99, 100)


@dataclass(frozen=True)
class Token:
    text: str
    learned: bool


@dataclass(frozen=True)
class Report:
    """All that is told of a file; `to_json` leaves out the tokens of the sample."""

    kind: str
    stages: list[str]  # that train on such rows
    shapes: list[str]  # of the first rows, the most usual one first
    summary: dict
    bad: list[dict]  # the first ones of each mistake: place, reason
    bad_rows: int
    mistakes: list[dict]  # how many rows have it, and examples
    left_out: list[str]  # the reasons for which rows are dropped though they are not bad
    looks_like: str  # what the rows rather are, where nearly all are bad
    unused: list[str]  # the fields with words in them that nothing reads
    remarks: list[str]  # on fields that could be meant otherwise than they were taken
    labels: list[str]  # the fields by which rows say whether they are wanted
    unwanted: int  # of the bad rows, those that are so labeled
    wanted: int | None  # of the good ones, where the kind learns from both
    unit: str  # "tokens", or "words" where there is no tokenizer
    lengths: dict[int, int]  # percentile: how long, before any is cut
    histogram: list[tuple[int, int, int]]  # (from, to, rows)
    max_length: int | None
    loss_share: float | None  # of the tokens, or words
    sample: list[Token]
    notes: tuple[str, ...] = ()  # of the tokenizer and its chat template

    def to_json(self) -> dict:
        return {key: value for key, value in vars(self).items() if key != "sample"}


def check(data: Data, kind: str, encoder: Encoder | Words, enough: Enough | None = None, threads: int = 1) -> Report:
    """Reads, splits and tokenizes the rows as a stage would."""
    data = data.model_copy(update={"on_bad_row": "drop"})  # bad rows are told, and the others looked at all the same
    if not KINDS[kind].ASKS and isinstance(encoder, Encoder):  # a text whole, not in pieces
        encoder = replace(encoder, max_length=None)
    first = kinds.probed(data)
    with TemporaryDirectory() as folder:
        account = prepare(data, kind, encoder, Path(folder), enough=enough, threads=threads).account
        trained, held_out = (table.mapped(Path(folder) / name) for name in (TRAINED, HELD_OUT))
        lengths = numpy.sort(numpy.concatenate([_lengths(rows, KINDS[kind]) for rows in (trained, held_out)])).tolist()
        return Report(
            kind=kind,
            stages=kinds.stages_of(kind),
            shapes=[name for name, _ in Counter(kinds.shapes_in(first, kind)).most_common()],
            summary=account.summary(),
            bad=account.first_bad,
            bad_rows=account.bad,
            mistakes=account.mistakes(),
            left_out=[reason for reason in account.dropped_by_reason if reason not in account.bad_by_reason],
            looks_like=account.looks_like,
            unused=[] if account.nearly_all_bad else kinds.unused(first, kind),
            remarks=remarks(first, kind, encoder.tokenizer if isinstance(encoder, Encoder) else None),
            labels=kinds.label_fields_of(first) if KINDS[kind].HEEDS_LABELS else [],
            unwanted=sum(count for reason, count in account.bad_by_reason.items() if reason.startswith(SAYS_UNWANTED)),
            wanted=_wanted(trained, held_out) if KINDS[kind].WANTED else None,
            unit="words" if isinstance(encoder, Words) else "tokens",
            lengths={share: lengths[min(len(lengths) * share // 100, len(lengths) - 1)] for share in PERCENTILES}
            if lengths
            else {},
            histogram=_histogram(lengths),
            max_length=encoder.max_length,
            loss_share=_loss_share(trained),
            sample=_sample(data, kind, encoder, trained),
        )


def _lengths(rows: pyarrow.Table, kind: type[Kind]) -> numpy.ndarray:
    """What each row takes up, with the longest of its answers, before any was cut."""

    def long(name: str) -> numpy.ndarray:
        return table.values(pyarrow.compute.list_value_length(rows.column(name))).astype(numpy.int64)

    cut = table.values(rows.column("cut"))
    first, *answers = kind.COLUMNS
    if "labels" in answers:
        answers = []
    return long(first) + (numpy.max([long(name) for name in answers], axis=0) if answers else 0) + cut


def _wanted(*sides: pyarrow.Table) -> int:
    return sum(int(table.values(rows.column("label")).sum()) for rows in sides)


def _histogram(lengths: Sequence[int], bins: int = 10) -> list[tuple[int, int, int]]:
    """(from, to, rows) of equal steps; the last one takes the longest rows in."""
    if not lengths:
        return []
    step = max(-(-lengths[-1] // bins), 1)
    counts = [0] * bins
    for length in lengths:
        counts[min((length - 1) // step, bins - 1)] += 1
    return [(number * step + 1, (number + 1) * step, count) for number, count in enumerate(counts)]


def _loss_share(rows: pyarrow.Table) -> float | None:
    if "labels" not in rows.column_names or not len(rows):
        return None
    labels = [table.values(chunk.flatten()) for chunk in rows.column("labels").chunks]
    return sum(int((some != IGNORED).sum()) for some in labels) / sum(map(len, labels))


def _sample(data: Data, kind: str, encoder: Encoder | Words, trained: pyarrow.Table) -> list[Token]:
    """A row piece by piece."""
    if not len(trained):
        return []
    if isinstance(encoder, Encoder):
        return _tokens(trained.slice(0, 1).to_pylist()[0], KINDS[kind], encoder)
    example = next(example for _, example in good_rows(data, kind))
    return [Token(*said) for said in encoder.written(example)]


def _tokens(row: dict, kind: type[Kind], encoder: Encoder) -> list[Token]:
    """A row, token by token; of several answers the first."""
    if "prompt_ids" in row:
        answer = row[kind.COLUMNS[1]] if kind.COLUMNS[1:] else []
        ids, learned = row["prompt_ids"] + answer, [False] * len(row["prompt_ids"]) + [True] * len(answer)
    else:
        ids = row["input_ids"]
        learned = [label != IGNORED for label in row.get("labels", ids)]
    return list(_written(ids, learned, encoder.tokenizer))


def _written(ids: Sequence[int], learned: Sequence[bool], tokenizer) -> Iterator[Token]:
    """Tokens as text; those that are parts of one character together."""
    start = 0
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[start:end])
        if not text.endswith("\ufffd") or end == len(ids) or end - start == 4:
            yield Token(text, learned[start])
            start = end
