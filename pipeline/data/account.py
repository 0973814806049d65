"""Every row accounted for: read = trained + held out + dropped, each dropped row with its place and reason."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from pipeline.data.read import Row, read
from pipeline.data.shape import BadRow, Example, shape
from pipeline.errors import PipelineError
from pipeline.recipe import Data

SHOWN = 20


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
            "truncated": len(self.truncated),
            "tokens_cut": sum(cut for _, cut in self.truncated),
        }

    def write(self, folder: Path) -> None:
        """`rejected.jsonl` and `truncated.jsonl`: which rows, where they stand, and why. Absent where there are none."""
        _write(
            folder / "rejected.jsonl",
            [{"file": r.file, "line": r.line, "reason": reason, "row": r.value} for r, reason in self.dropped],
        )
        _write(
            folder / "truncated.jsonl",
            [{"file": r.file, "line": r.line, "tokens_cut": cut} for r, cut in self.truncated],
        )


def _write(path: Path, lines: list[dict]) -> None:
    path.unlink(missing_ok=True)
    if lines:
        # Tables hold dates and bytes, which JSON has not; half of a surrogate pair is written as JSON's own escape.
        text = "".join(json.dumps(line, ensure_ascii=False, default=str) + "\n" for line in lines)
        path.write_text(text, encoding="utf-8", errors="backslashreplace")


def take(data: Data, kind: str, account: Account) -> None:
    """Read, check and split the rows of a stage into `account`.

    `data.held_out` is a share, or a file of its own. A share is cut by the hash of the prompt, so that
    a question never stands on both sides and rows added later move none.
    """
    share = data.held_out if isinstance(data.held_out, float) else 0.0
    for placed in _good(data, data.path, kind, account):
        side = account.held_out if _fraction(placed.example.prompt) < share else account.trained
        side.append(placed)
    if isinstance(data.held_out, str):
        account.held_out.extend(_good(data, data.held_out, kind, account))


def _good(data: Data, paths: str | Sequence[str], kind: str, account: Account):
    for row in read(paths, encoding=data.encoding, separator=data.separator):
        account.read += 1
        try:
            if row.problem:
                raise BadRow(row.problem)
            yield Placed(row, shape(row.value, kind, columns=data.columns, named=data.shape))
        except BadRow as bad:
            account.drop(row, str(bad))


def _fraction(prompt: str) -> float:
    """A number in [0, 1) that depends on the prompt alone."""
    return int.from_bytes(sha256(prompt.encode("utf-8", "surrogatepass")).digest()[:8]) / 2**64


def refuse_bad_rows(account: Account, stage: str) -> None:
    """Stop with the first bad rows and the count by reason: the default, `on_bad_row: error`."""
    if not account.dropped:
        return
    rows = [f"{row.place} {reason}" for row, reason in account.dropped[:SHOWN]]
    if more := len(account.dropped) - SHOWN:
        rows += [f"... and {more} more"] if more > 0 else []
    by_reason = Counter(reason for _, reason in account.dropped)
    if 1 < len(by_reason) < len(account.dropped):
        rows += [f"{count} x {reason}" for reason, count in by_reason.most_common()]
    raise PipelineError(
        f"{stage}: {len(account.dropped)} of {account.read} rows cannot be trained on:\n  " + "\n  ".join(rows),
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
