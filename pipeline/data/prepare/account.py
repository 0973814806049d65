"""Every row accounted for: read = trained + held out + dropped, each dropped row with its place and reason."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from pipeline.data.read.reader import Row
from pipeline.data.shapes.labels import SAYS_UNWANTED
from pipeline.data.source import Data
from pipeline.data.tokens.truncation import TOO_LONG
from pipeline.errors import PipelineError

SHOWN = 20  # bad rows, of at most so many mistakes
ALIKE = 3  # of them that have the same mistake
NEARLY_ALL = 0.9  # of the rows: then it is the file that is not what it was taken for
REASONS = 100  # that are counted each by itself
OTHERS = "other reasons"
SAME = "says the same as an earlier row"  # which one, duplicates.jsonl has
BEYOND = "left out by max_rows"
LISTS = (
    "rejected.jsonl",
    "truncated.jsonl",
    "duplicates.jsonl",
    "doubtful.jsonl",
)  # absent where there is nothing to list


@dataclass
class Account:
    """What became of the rows of one stage, in numbers. Which rows they were stands in the files of LISTS."""

    read: int = 0
    trained: int = 0
    held_out: int = 0
    held_out_asked: float = 0.0  # the share of the rows that it should be, where it is another one
    dropped_by_reason: Counter[str] = field(default_factory=Counter)
    bad_by_reason: Counter[str] = field(default_factory=Counter)  # those among them that nobody asked to leave out
    duplicates: int = 0
    contradictions: int = 0  # pairs that an earlier one has the other way
    truncated: int = 0
    answers_cut: int = 0  # rows among the truncated whose answer lost its end
    tokens_cut: int = 0
    unshown: int = 0  # rows that lost reasoning of turns in which the chat template does not show it
    garbled: int = 0  # rows that read like UTF-8 taken for something else
    first_garbled: str = ""
    scored_against: int = 0  # pairs whose rejected answer has the higher score
    first_scored_against: list[str] = field(default_factory=list)  # places, a few
    partial: bool = False  # there are more rows than were read
    first_bad: list[dict] = field(default_factory=list)  # place and reason, a few of each mistake
    looks_like: str = ""  # what the rows rather are, where nearly all are bad

    @property
    def dropped(self) -> int:
        return sum(self.dropped_by_reason.values())

    @property
    def bad(self) -> int:
        return sum(self.bad_by_reason.values())

    @property
    def nearly_all_bad(self) -> bool:
        return self.bad >= NEARLY_ALL * self.read

    def mistakes(self) -> list[dict]:
        """The bad rows by what is wrong with them, the commonest first: how many, and the first ones of them."""
        counts: Counter[str] = Counter()
        for reason, count in self.bad_by_reason.items():
            counts[_mistake(reason)] += count
        examples: dict[str, list[dict]] = {}
        for bad in self.first_bad:
            examples.setdefault(_mistake(bad["reason"]), []).append(bad)
        return [
            {"rows": count, "examples": shown}
            for mistake, count in counts.most_common()
            if (shown := examples.get(mistake))
        ]

    def summary(self) -> dict:
        """Plain numbers for the manifest. Raises AssertionError if a row went missing."""
        counts = {"read": self.read, "trained": self.trained, "held_out": self.held_out, "dropped": self.dropped}
        assert self.read == self.trained + self.held_out + self.dropped, counts
        return counts | {
            "dropped_by_reason": dict(self.dropped_by_reason),
            "duplicates_kept": self.duplicates - self.dropped_by_reason[SAME],
            "contradictions": self.contradictions,
            **({"held_out_asked": self.held_out_asked} if self.held_out_asked else {}),
            "truncated": self.truncated,
            "answers_cut": self.answers_cut,
            "tokens_cut": self.tokens_cut,
            **({"reasoning_left_out": self.unshown} if self.unshown else {}),
            **({"garbled": self.garbled, "first_garbled": self.first_garbled} if self.garbled else {}),
            **self._scores(),
            **({"partial": True} if self.partial else {}),
        }

    def _scores(self) -> dict:
        if not self.scored_against:
            return {}
        more = ["..."] if self.scored_against > len(self.first_scored_against) else []
        places = ", ".join([*self.first_scored_against, *more])
        return {"scored_against": self.scored_against, "first_scored_against": places}

    def to_json(self) -> dict:
        return vars(self)

    @classmethod
    def from_json(cls, said: dict) -> "Account":
        counted = {name: Counter(said[name]) for name in ("dropped_by_reason", "bad_by_reason")}
        return cls(**said | counted)


class Ledger:
    """An account that is being kept, with its lists."""

    def __init__(self, folder: Path):
        self.account, self._folder = Account(), folder
        self._files: dict[str, TextIO] = {}
        self._shown: Counter[str] = Counter()
        self._open = ExitStack()
        self._run: tuple[Row, Row, int] | None = None  # first, last and number of rows on end beyond max_rows

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_) -> None:
        self.end_run()
        self._open.close()

    def beyond(self, row: Row) -> None:
        """Drop a row for `max_rows`.

        It may leave out a million: those that follow each other are listed in one line.
        """
        self.account.dropped_by_reason[BEYOND] += 1
        if self._run and self._run[0].file != row.file:
            self.end_run()
        first, _, rows = self._run or (row, row, 0)
        self._run = first, row, rows + 1

    def end_run(self) -> None:
        """Another row follows."""
        if self._run:
            first, last, rows = self._run
            self._list("rejected.jsonl", first, through=last.line, rows=rows, reason=BEYOND)
            self._run = None

    def drop(self, row: Row, reason: str, *, bad: bool = True) -> None:
        account = self.account
        known = account.dropped_by_reason
        counted = reason if reason in known or len(known) < REASONS or not bad else OTHERS
        known[counted] += 1
        if bad:
            account.bad_by_reason[counted] += 1
            mistake = _mistake(reason)
            if len(account.first_bad) < SHOWN and self._shown[mistake] < ALIKE:
                self._shown[mistake] += 1
                account.first_bad.append({"place": row.place, "reason": reason})
        self._list("rejected.jsonl", row, reason=reason, row=row.value)

    def cut(self, row: Row, tokens: int, in_answer: bool) -> None:
        self.account.truncated += 1
        self.account.tokens_cut += tokens
        self.account.answers_cut += in_answer
        self._list("truncated.jsonl", row, tokens_cut=tokens)

    def unshown(self, row: Row, turns: Sequence[int]) -> None:
        self.account.unshown += 1
        self._list("truncated.jsonl", row, reasoning_left_out_of_turns=list(turns))

    def same(self, row: Row, first: str) -> None:
        self.account.duplicates += 1
        self._list("duplicates.jsonl", row, same_as=first)

    def opposite(self, row: Row, first: str) -> None:
        self.account.contradictions += 1
        self._list("duplicates.jsonl", row, opposite_of=first)

    def garbled(self, row: Row) -> None:
        self.account.garbled += 1
        self.account.first_garbled = self.account.first_garbled or row.place

    def doubtful(self, row: Row, why: str) -> None:
        self.account.scored_against += 1
        if len(self.account.first_scored_against) < ALIKE:
            self.account.first_scored_against.append(row.place)
        self._list("doubtful.jsonl", row, why=why)

    def _list(self, name: str, row: Row, /, **what: object) -> None:
        if name not in self._files:
            # Half of a surrogate pair is written as JSON's own escape.
            file = (self._folder / name).open("w", encoding="utf-8", errors="backslashreplace")
            self._files[name] = self._open.enter_context(file)
        line = {"file": row.file, "line": row.line} | what
        # Tables hold dates and bytes, which JSON has not.
        self._files[name].write(json.dumps(line, ensure_ascii=False, default=str) + "\n")


def _mistake(reason: str) -> str:
    """A reason without what differs from row to row: numbers, and values in quotes."""
    return re.sub(r"(?<!\w)'[^']*'|\d+", "#", reason)


def told(mistakes: Sequence[dict], bad: int) -> list[str]:
    """A line for each bad row that is shown, and for the others how many there are."""
    lines, left = [], bad
    for mistake in mistakes:
        examples, rows = mistake["examples"], mistake["rows"]
        lines += [f"{one['place']} {one['reason']}" for one in examples]
        if rows > len(examples):
            lines.append(f"... and {rows - len(examples)} more like {'these' if len(examples) > 1 else 'this'}")
        left -= rows
    return [*lines, f"... and {left} more, for other reasons"] if left > 0 else lines


def refuse_bad_rows(account: Account, stage: str) -> None:
    """Stop with the first bad rows of each mistake and how many there are: the default, `on_bad_row: error`."""
    if not account.bad:
        return
    raise PipelineError(
        f"{stage}: {account.bad} of {account.read} rows cannot be trained on:\n  "
        + "\n  ".join(told(account.mistakes(), account.bad)),
        _way_out(account, stage),
    )


def _way_out(account: Account, stage: str) -> str:
    """What to do about the bad rows. To leave them out is no way where nearly none would be left."""
    drop = f"--set stages.{stage}.data.on_bad_row=drop (they are then listed in rejected.jsonl)."
    if all(reason.startswith(SAYS_UNWANTED) for reason in account.bad_by_reason):
        return f"{stage} learns wanted answers only: leave the others out with {drop}"
    shorter = ""
    if any(reason.startswith(TOO_LONG) for reason in account.bad_by_reason):
        shorter = "Raise train.max_length, or set data.on_too_long to truncate or drop. "
    if account.nearly_all_bad:
        return account.looks_like or f"{shorter}Mend what the rows have in common."
    return f"{shorter}Mend the rows, or leave them out with {drop}"


def refuse_empty(account: Account, stage: str, data: Data) -> None:
    if not account.trained:
        paths = ", ".join(path for part in data.parts for path in part.paths)
        raise PipelineError(
            f"{stage}: {paths}: no row is left to train on: {account.read} read, {account.held_out} held out, "
            f"{account.dropped} dropped."
            + "".join(f"\n  {count} x {reason}" for reason, count in account.dropped_by_reason.most_common(SHOWN)),
            "Mend what they were dropped for." if account.dropped else "Give more rows, or a smaller data.held_out.",
        )
