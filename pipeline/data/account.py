"""Every row accounted for: read = trained + held out + dropped, each dropped row with its place and reason."""

import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, field, replace
from hashlib import sha256
from pathlib import Path

from pipeline.data.read import Row, read_rows
from pipeline.data.shape import BadRow, Example, Preference, shape
from pipeline.errors import PipelineError
from pipeline.recipe import Data, Rows

SHOWN = 20
SAME = "says the same as an earlier row"  # which one, duplicates.jsonl has


@dataclass(frozen=True, slots=True)
class Placed:
    """An example and the row that it came from."""

    row: Row
    example: Example


@dataclass
class Account:
    """What became of the rows of one stage."""

    read: int = 0
    dropped: list[tuple[Row, str]] = field(default_factory=list)
    truncated: list[tuple[Row, int]] = field(default_factory=list)  # with the number of tokens cut
    duplicates: list[tuple[Row, str]] = field(default_factory=list)  # with the place of the first of each
    contradictions: list[tuple[Row, str]] = field(default_factory=list)  # pairs that an earlier one has the other way
    answers_cut: int = 0  # rows among the truncated whose answer lost its end
    trained: list[Placed] = field(default_factory=list)
    held_out: list[Placed] = field(default_factory=list)

    def drop(self, row: Row, reason: str) -> None:
        self.dropped.append((row, reason))

    def summary(self) -> dict:
        """Plain numbers for the manifest. Raises AssertionError if a row went missing."""
        counts = {
            "read": self.read,
            "trained": len(self.trained),
            "held_out": len(self.held_out),
            "dropped": len(self.dropped),
        }
        assert self.read == counts["trained"] + counts["held_out"] + counts["dropped"], counts
        return counts | {
            "dropped_by_reason": dict(Counter(reason for _, reason in self.dropped)),
            "duplicates_kept": len(self.duplicates) - sum(reason == SAME for _, reason in self.dropped),
            "contradictions": len(self.contradictions),
            "truncated": len(self.truncated),
            "answers_cut": self.answers_cut,
            "tokens_cut": sum(cut for _, cut in self.truncated),
        }

    def write(self, folder: Path) -> None:
        """`rejected.jsonl`, `truncated.jsonl` and `duplicates.jsonl`: which rows, where they stand, and why. Absent where there are none."""
        _write(
            folder / "rejected.jsonl",
            [{"file": r.file, "line": r.line, "reason": reason, "row": r.value} for r, reason in self.dropped],
        )
        _write(
            folder / "truncated.jsonl",
            [{"file": r.file, "line": r.line, "tokens_cut": cut} for r, cut in self.truncated],
        )
        _write(
            folder / "duplicates.jsonl",
            [{"file": r.file, "line": r.line, "same_as": first} for r, first in self.duplicates]
            + [{"file": r.file, "line": r.line, "opposite_of": first} for r, first in self.contradictions],
        )


def _write(path: Path, lines: list[dict]) -> None:
    path.unlink(missing_ok=True)
    if lines:
        # Tables hold dates and bytes, which JSON has not; half of a surrogate pair is written as JSON's own escape.
        text = "".join(json.dumps(line, ensure_ascii=False, default=str) + "\n" for line in lines)
        path.write_text(text, encoding="utf-8", errors="backslashreplace")


def take(data: Data, kind: str, account: Account) -> None:
    """Read, check and split the rows of a stage into `account`.

    `data.held_out` is a share, or rows of their own. A share is cut by the hash of the prompt, so that
    a question never stands on both sides and rows added later move none.
    """
    share = data.held_out if isinstance(data.held_out, float) else 0.0
    seen: dict[int, str] = {}
    for placed in _unlike(_good(data, data, kind, account), data, account, seen):
        side = account.held_out if _fraction(placed.example.prompt) < share else account.trained
        side.append(placed)
    if data.held_out_rows:
        good = _good(data, data.held_out_rows, kind, account)
        account.held_out.extend(_unlike(good, data, account, seen))


def _good(data: Data, rows: Rows, kind: str, account: Account):
    for row in read_rows(data, rows):
        account.read += 1
        try:
            if row.problem:
                raise BadRow(row.problem)
            yield Placed(row, shape(row.value, kind, columns=data.columns, named=data.shape))
        except BadRow as bad:
            account.drop(row, str(bad))


def _unlike(good: Iterable[Placed], data: Data, account: Account, seen: dict[int, str]) -> Iterator[Placed]:
    """The examples, those that say the same as an earlier one on record; left out with `duplicates: drop`."""
    for placed in good:
        key = sameness(placed.example)
        if isinstance(example := placed.example, Preference):
            swapped = sameness(replace(example, chosen=example.rejected, rejected=example.chosen))
            if swapped in seen:
                account.contradictions.append((placed.row, seen[swapped]))
        first = seen.setdefault(key, placed.row.place)
        if first == placed.row.place:
            yield placed
            continue
        account.duplicates.append((placed.row, first))
        if data.duplicates == "drop":
            account.drop(placed.row, SAME)
        else:
            yield placed


def sameness(example: Example) -> int:
    """A number that two examples share if they say the same but for case and white space."""
    return _number(json.dumps(_folded(astuple(example)), ensure_ascii=False, sort_keys=True, default=str))


def _folded(value: object) -> object:
    if isinstance(value, str):
        return " ".join(value.casefold().split())
    if isinstance(value, dict):
        return {key: _folded(one) for key, one in value.items()}
    return [_folded(one) for one in value] if isinstance(value, list | tuple) else value


def _fraction(prompt: str) -> float:
    """A number in [0, 1) that depends on the prompt alone, whatever its case and white space."""
    return _asked(prompt) / 2**64


def _asked(prompt: str) -> int:
    return _number(_folded(prompt))


def _number(said: str) -> int:
    return int.from_bytes(sha256(said.encode("utf-8", "surrogatepass")).digest()[:8])


def prompts_seen(placed: Iterable[Placed]) -> array:
    """What stands for the prompts that were trained on: eight bytes each."""
    return array("Q", sorted({_asked(one.example.prompt) for one in placed}))


def seen_before(placed: Sequence[Placed], prompts: array) -> int:
    """How many of these rows ask what is among `prompts`."""
    known = set(prompts)
    return sum(_asked(one.example.prompt) in known for one in placed)


def refuse_bad_rows(account: Account, stage: str) -> None:
    """Stop with the first bad rows and the count by reason: the default, `on_bad_row: error`."""
    bad = [(row, reason) for row, reason in account.dropped if reason != SAME]  # those were asked to go
    if not bad:
        return
    rows = [f"{row.place} {reason}" for row, reason in bad[:SHOWN]]
    if (more := len(bad) - SHOWN) > 0:
        rows += [f"... and {more} more"]
    by_reason = Counter(reason for _, reason in bad)
    if 1 < len(by_reason) < len(bad):
        rows += [f"{count} x {reason}" for reason, count in by_reason.most_common()]
    raise PipelineError(
        f"{stage}: {len(bad)} of {account.read} rows cannot be trained on:\n  " + "\n  ".join(rows),
        f"Mend the rows, or leave them out with --set stages.{stage}.data.on_bad_row=drop "
        "(they are then listed in rejected.jsonl).",
    )


def refuse_empty(account: Account, stage: str) -> None:
    if not account.trained:
        raise PipelineError(
            f"{stage}: no row is left to train on: {account.read} read, {len(account.held_out)} held out, "
            f"{len(account.dropped)} dropped.",
            "Give more rows, or a smaller data.held_out.",
        )
