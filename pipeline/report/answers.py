"""Answers before and after a stage, for a person to compare: those that changed first, long ones cut, all of them counted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

SHOWN, FOLDED = 16, 6  # answers of a stage on the page, and how many of them are unfolded
LONG = 600  # characters of a text
# What is said of an answer that was right and is not any more, of one that was not and is, and of one that is other. They are shown
# in this order: what a person has to see before keeping a model comes first.
BY_A_STAGE = ("became wrong", "became right", "changed")
BY_ANOTHER = ("right in the first alone", "right in the second alone", "differs")


@dataclass(frozen=True)
class Text:
    shown: str
    left_out: int = 0  # characters


@dataclass(frozen=True)
class Answer:
    prompt: Text
    before: Text
    after: Text
    reference: Text | None
    changed: bool
    word: str  # what became of it


@dataclass(frozen=True)
class Answers:
    shown: list[Answer]
    total: int
    changed: int
    lengths: tuple[float, float] | None  # the median words of an answer, before and after


def answers(
    samples: Sequence[Mapping], before: Mapping, after: Mapping, words: tuple[str, str, str] = BY_A_STAGE
) -> Answers:
    """`before` and `after` are the figures with each row's numbers, which say what is right where there is one a sample."""
    was, now = (
        figures["each"].get("exact_match") or figures["each"].get("accuracy") or () for figures in (before, after)
    )
    known = len(was) == len(now) == len(samples)
    lost, won, other = words
    judged = {(0, 1): won, (1, 0): lost, (1, 1): "right", (0, 0): "wrong"}
    told = []
    for number, sample in enumerate(samples):
        changed = sample["before"] != sample["after"]
        word = judged.get((was[number], now[number]), "") if known else ""
        if changed and word not in (lost, won):
            word = f"{other}, both {word}" if word else other
        told.append((sample, changed, word or ("" if changed else "unchanged")))
    order = {word: number for number, word in enumerate(words)}
    told.sort(key=lambda one: order.get(one[2].partition(",")[0], len(order)))
    whole = [sample for sample in samples if isinstance(sample["before"], str) and isinstance(sample["after"], str)]
    lengths = tuple(median(len(one[when].split()) for one in whole) for when in ("before", "after")) if whole else None
    return Answers(
        [_answer(*one) for one in told[:SHOWN]], len(samples), sum(changed for _, changed, _ in told), lengths
    )


def _answer(sample: Mapping, changed: bool, word: str) -> Answer:
    reference = sample.get("reference")
    texts = (cut(sample[name]) for name in ("prompt", "before", "after"))
    return Answer(*texts, cut(reference) if reference is not None else None, changed, word)


def cut(text: object) -> Text:
    """Its beginning, each character of it one that a page may hold."""
    text = str(text)
    shown = "".join(one if one.isprintable() or one in "\n\t" else "\N{REPLACEMENT CHARACTER}" for one in text[:LONG])
    return Text(shown, max(len(text) - LONG, 0))
