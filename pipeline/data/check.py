"""What would become of a file: its rows, their tokens, and which of those carry loss. Nothing is trained."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy
from datasets import Dataset

from pipeline.data.prepare import Enough, prepare
from pipeline.data.read import Row, read_rows
from pipeline.data.shape import BadRow, recognised
from pipeline.data.source import Data, Source
from pipeline.data.table import BATCH, numbers
from pipeline.data.tokenise import IGNORED, Tokeniser
from pipeline.data.work import shaped
from pipeline.errors import PipelineError

KINDS = ("preference", "conversation", "text", "prompt")  # the more telling first
PROBED = 50  # rows that tell what kind a file is
PERCENTILES = (5, 25, 50, 75, 95, 99, 100)


@dataclass(frozen=True)
class Token:
    text: str
    learned: bool


@dataclass(frozen=True)
class Report:
    """All that is told of a file; `to_json` leaves out the tokens of the sample."""

    kind: str
    shapes: list[str]  # of the first rows, the most usual one first
    summary: dict
    bad: list[dict]  # the first ones: place, reason
    bad_rows: int
    lengths: dict[int, int]  # percentile: tokens, before any is cut
    histogram: list[tuple[int, int, int]]  # (from, to, rows)
    max_length: int | None
    loss_share: float | None  # of the tokens
    sample: list[Token]

    def to_json(self) -> dict:
        return {key: value for key, value in vars(self).items() if key != "sample"}


def kind_of(data: Data) -> str:
    """The kind of row that most of the first rows are. Raises PipelineError where they are none."""
    probed = _probed(data)
    known = [(row, source) for row, source in probed if not row.problem]
    good = {kind: sum(not isinstance(shaped(row, kind, source), BadRow) for row, source in known) for kind in KINDS}
    if not probed:
        raise PipelineError(f"{', '.join(data.paths)}: has no rows.", "Give a file with at least one row.")
    most = max(good.values())
    if not most:
        first = known[0][0].value if known else None
        fields = ", ".join(first) if isinstance(first, dict) else "none"
        raise PipelineError(
            f"{', '.join(data.paths)}: its first {len(probed)} rows have no shape that is known; the first one's fields "
            f"are {fields}.",
            "Name the stage with --stage to see why, or map the fields with data.columns.",
        )
    return next(kind for kind in KINDS if 2 * good[kind] >= most)  # a bad row of one kind may be a good one of another


def _shapes(data: Data, kind: str) -> list[str]:
    found = (
        source.shape or recognised(row.value, kind, source.columns) for row, source in _probed(data) if not row.problem
    )
    return [name for name, _ in Counter(filter(None, found)).most_common()]


def _probed(data: Data) -> list[tuple[Row, Source]]:
    """The first rows of each part."""
    return [(row, source) for source in data.parts for row in islice(read_rows(source), PROBED)]


def check(data: Data, kind: str, tokeniser: Tokeniser, enough: Enough | None = None, threads: int = 1) -> Report:
    """Reads, splits and tokenises the rows as a stage would."""
    data = data.model_copy(update={"on_bad_row": "drop"})  # bad rows are told, and the others looked at all the same
    if kind == "text":  # whole, not in pieces
        tokeniser = replace(tokeniser, max_length=None)
    with TemporaryDirectory() as folder:
        prepared = prepare(data, kind, tokeniser, Path(folder), enough=enough, threads=threads)
        trained = prepared.trained
        lengths = numpy.sort(numpy.concatenate([_lengths(rows) for rows in (trained, prepared.held_out)])).tolist()
        return Report(
            kind=kind,
            shapes=_shapes(data, kind),
            summary=prepared.account.summary(),
            bad=prepared.account.first_bad,
            bad_rows=prepared.account.bad,
            lengths={share: lengths[min(len(lengths) * share // 100, len(lengths) - 1)] for share in PERCENTILES}
            if lengths
            else {},
            histogram=_histogram(lengths),
            max_length=tokeniser.max_length,
            loss_share=_loss_share(trained, kind),
            sample=_tokens(trained[0], tokeniser) if len(trained) else [],
        )


def _lengths(rows: Dataset) -> numpy.ndarray:
    """What each row takes up, of a pair its longer side, before any was cut."""
    if "prompt_ids" not in rows.column_names:
        return numbers(rows, "input_ids") + numbers(rows, "cut")
    answers = [numbers(rows, name) for name in ("chosen_ids", "rejected_ids") if name in rows.column_names]
    return numbers(rows, "prompt_ids") + (numpy.maximum(*answers) if answers else 0) + numbers(rows, "cut")


def _histogram(lengths: Sequence[int], bins: int = 10) -> list[tuple[int, int, int]]:
    """(from, to, rows) of equal steps; the last one takes the longest rows in."""
    if not lengths:
        return []
    step = max(-(-lengths[-1] // bins), 1)
    counts = [0] * bins
    for length in lengths:
        counts[min((length - 1) // step, bins - 1)] += 1
    return [(number * step + 1, (number + 1) * step, count) for number, count in enumerate(counts)]


def _loss_share(rows: Dataset, kind: str) -> float | None:
    if kind != "conversation" or not len(rows):
        return None
    learned = every = 0
    for batch in rows.select_columns(["labels"]).with_format("arrow").iter(BATCH):
        labels = batch.column("labels").combine_chunks().flatten().to_numpy()
        learned, every = learned + int((labels != IGNORED).sum()), every + len(labels)
    return learned / every


def _tokens(row: dict, tokeniser: Tokeniser) -> list[Token]:
    """A row, token by token; of a pair the chosen side."""
    if "prompt_ids" in row:
        answer = row.get("chosen_ids", [])
        ids, learned = row["prompt_ids"] + answer, [False] * len(row["prompt_ids"]) + [True] * len(answer)
    else:
        ids = row["input_ids"]
        learned = [label != IGNORED for label in row.get("labels", ids)]
    return list(_written(ids, learned, tokeniser.tokenizer))


def _written(ids: Sequence[int], learned: Sequence[bool], tokenizer) -> Iterator[Token]:
    """Tokens as text; those that are parts of one character together."""
    start = 0
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[start:end])
        if not text.endswith("\ufffd") or end == len(ids) or end - start == 4:
            yield Token(text, learned[start])
            start = end
