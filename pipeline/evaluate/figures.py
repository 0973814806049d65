"""What an evaluation finds."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy


@dataclass
class Figures:
    """What one evaluation found. `metrics` are plain numbers with their `n` beside them.

    `completions` are greedy answers to the held-out prompts, in order; `margins` are, for each held-out
    pair, the policy's log p(chosen) - log p(rejected), summed over tokens. `each` has, for a figure that is a mean
    over rows, the numbers that it is the mean of, one a row that counts; where rows do not count alike, as in a loss by
    tokens, `weights` has how much each does. `parts` has, for a figure that is reckoned from sums over the rows (see
    pipeline.evaluate.reckoned), what each row adds to them. `how` says of a figure by which tool and options it is,
    and `confusion` how often each label was said for each: {"labels", "table"}, a row for each right label, a column for each
    that was said, and a last one for answers that are no label.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    completions: list[str] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)
    each: dict[str, list[float]] = field(default_factory=dict)
    weights: dict[str, list[float]] = field(default_factory=dict)
    parts: dict[str, list[list[float]]] = field(default_factory=dict)
    how: dict[str, str] = field(default_factory=dict)
    confusion: dict = field(default_factory=dict)

    def to_json(self) -> dict:
        return vars(self)

    def mean_of(self, name: str, numbers: Sequence[float]) -> None:
        """A figure that is the mean of one number a row."""
        self.each[name] = [float(number) for number in numbers]
        self.metrics[name] = float(numpy.mean(self.each[name]))

    def sum_of(self, name: str, parts: Sequence[Sequence[float]], value: float) -> None:
        """A figure that is reckoned from the sums of these parts of the rows."""
        self.parts[name], self.metrics[name] = [list(row) for row in parts], float(value)


def above(these: Sequence[float], those: Sequence[float]) -> list[float]:
    """For each pair 1 where the one is above the other, 0 where it is below; ties count half."""
    return [(a > b) + 0.5 * (a == b) for a, b in zip(these, those, strict=True)]


def share_above(these: Sequence[float], those: Sequence[float]) -> float:
    """How often one is above the other; ties count half."""
    return float(numpy.mean(above(these, those)))
