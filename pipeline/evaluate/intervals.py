"""How far chance moves a figure: a bootstrap over the held-out rows and the seeds together.

Rows and seeds are drawn anew, each with replacement and independently of the other, as the answers of every seed are to
the same rows: the pigeonhole bootstrap of A. B. Owen (Annals of Applied Statistics 1, 2007, 386-411,
https://doi.org/10.1214/07-AOAS122). An interval goes from the 2.5th to the 97.5th percentile of the means (B. Efron and
R. J. Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3). Of so few seeds as three it says too little
rather than too much. `differences` draws the rows of one model alone, before and after in pairs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy

from pipeline.evaluate.figures import Figures
from pipeline.evaluate.reckoned import FORMULAS, Formula
from pipeline.evaluate.shares import EVEN

DRAWS = 4000
DRAWS_RECKONED = 1000  # of figures whose formula takes its time
_AT_ONCE = 1 << 20  # numbers of draws x rows in memory
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


def differences(before: Figures, after: Figures) -> dict[str, Interval]:
    """Of every figure whose rows' numbers are kept: after - before on the same rows, and where 95% of it lies."""
    found = {}
    for name, now in after.each.items():
        was = before.each.get(name, [EVEN[name]] * len(now) if name in EVEN else [])
        if now and len(was) == len(now):
            found[name] = difference(was, now, after.weights.get(name))
    for name, now in after.parts.items():
        was = before.parts.get(name, [])
        if now and len(was) == len(now):
            found[name] = _reckoned_difference(FORMULAS[name], numpy.asarray(was), numpy.asarray(now))
    return found


def _reckoned_difference(formula: Formula, was: numpy.ndarray, now: numpy.ndarray) -> Interval:
    """Of a figure by its formula: `was` and `now` are (rows, sums), the rows drawn in pairs."""
    random = numpy.random.default_rng(0)  # the same numbers give the same interval
    rows, drawn, size = len(now), [], max(_AT_ONCE // len(now), 1)
    for begun in range(0, DRAWS_RECKONED, size):
        times = random.multinomial(rows, [1 / rows] * rows, size=min(size, DRAWS_RECKONED - begun))  # (draws, rows)
        drawn.append(formula(times @ now) - formula(times @ was))
    found, before = (formula(sums.sum(axis=0, keepdims=True))[0] for sums in (now, was))
    return interval(found - before, numpy.concatenate(drawn))


def difference(was: Sequence[float], now: Sequence[float], weights: Sequence[float] | None = None) -> Interval:
    """Of the (weighted) means of two numbers a row: the rows are drawn in pairs, each as often as chance has it."""
    random = numpy.random.default_rng(0)  # the same numbers give the same interval
    rows = len(now)
    counted = numpy.ones(rows) if weights is None else numpy.asarray(weights, dtype=float)
    gained = counted * (numpy.asarray(now) - numpy.asarray(was))
    drawn, size = [], max(_AT_ONCE // rows, 1)
    for begun in range(0, DRAWS, size):
        times = random.multinomial(rows, [1 / rows] * rows, size=min(size, DRAWS - begun))  # (draws, rows)
        drawn.append((times @ gained) / numpy.maximum(times @ counted, 1e-12))
    return interval(gained.sum() / max(counted.sum(), 1e-12), numpy.concatenate(drawn))
