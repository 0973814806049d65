"""How far chance moves a figure: a bootstrap over the held-out rows and the seeds together.

Rows and seeds are drawn anew, each with replacement and independently of the other, as the answers of every seed are to
the same rows: the pigeonhole bootstrap of A. B. Owen (Annals of Applied Statistics 1, 2007, 386-411,
https://doi.org/10.1214/07-AOAS122). An interval goes from the 2.5th to the 97.5th percentile of the means (B. Efron and
R. J. Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3). Of so few seeds as three it says too little
rather than too much.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy

DRAWS = 4000
PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True)
class Interval:
    """A mean over rows and seeds, and where 95% of the means lie that chance might have given instead."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        return asdict(self)


def means(found: Mapping[str, Sequence[Sequence[float]]], draws: int = DRAWS) -> dict[str, numpy.ndarray]:
    """For each method (draws,) means of its (seeds, rows) numbers.

    All have the same rows, and in a draw get the same of them: the difference of two is then that of a pair. Seeds are
    each method's own.
    """
    random = numpy.random.default_rng(0)  # the same numbers give the same interval
    rows = len(next(iter(found.values()))[0])
    weights = random.multinomial(rows, [1 / rows] * rows, size=draws) / rows  # (draws, rows)
    drawn = {}
    for name, numbers in found.items():
        by_seed = numpy.asarray(numbers) @ weights.T  # (seeds, draws)
        seeds = random.integers(len(by_seed), size=by_seed.shape)
        drawn[name] = numpy.take_along_axis(by_seed, seeds, axis=0).mean(axis=0)
    return drawn


def interval(value: float, drawn: numpy.ndarray) -> Interval:
    """`drawn` are the means of the draws, or the differences of two methods' means."""
    low, high = numpy.percentile(drawn, PERCENTILES)
    return Interval(float(value), float(low), float(high))


def changes(was: Mapping[str, Sequence[float]], now: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """For each figure of which both evaluations have the same rows' numbers: how far its mean moved, row by row paired."""
    moved = {name: numpy.subtract(now[name], was[name]) for name in now if len(was.get(name, ())) == len(now[name]) > 0}
    return {name: interval(by.mean(), means({name: [by]})[name]).to_json() for name, by in moved.items()}
