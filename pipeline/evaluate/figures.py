"""What an evaluation finds."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy


@dataclass
class Figures:
    """What one evaluation found. `metrics` are plain numbers with their `n` beside them.

    `completions` are greedy answers to the held-out prompts, in order; `margins` are, for each held-out
    pair, the policy's log p(chosen) - log p(rejected), summed over tokens.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    completions: list[str] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)

    def to_json(self) -> dict:
        return {"metrics": self.metrics, "completions": self.completions, "margins": self.margins}


def share_above(these: Sequence[float], those: Sequence[float]) -> float:
    """How often one is above the other; ties count half."""
    return float(numpy.mean([(a > b) + 0.5 * (a == b) for a, b in zip(these, those, strict=True)]))
