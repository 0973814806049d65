"""The bootstrap over rows and seeds, against what is known of means."""

import numpy
import pytest

from pipeline.evaluate.intervals import interval, means

ROWS = 200


def bounds(*seeds: list[float]) -> tuple[float, float]:
    found = interval(float(numpy.mean(seeds)), means({"one": seeds})["one"])
    return found.low, found.high


def test_of_one_seed_it_is_the_interval_of_a_share():
    right = [1.0] * 140 + [0.0] * 60
    half = 1.96 * (0.7 * 0.3 / ROWS) ** 0.5  # the normal approximation
    assert bounds(right) == pytest.approx((0.7 - half, 0.7 + half), abs=0.01)


def test_seeds_that_differ_widen_it():
    good, bad = [1.0] * 160 + [0.0] * 40, [1.0] * 120 + [0.0] * 80
    alike, apart = bounds(good, good), bounds(good, bad)
    assert apart[1] - apart[0] > 1.5 * (alike[1] - alike[0])


def test_two_methods_are_compared_on_the_same_rows():
    """Where one is right wherever the other is, and a little more, chance in the rows does not count twice."""
    one, other = [1.0] * 110 + [0.0] * 90, [1.0] * 100 + [0.0] * 100
    drawn = means({"one": [one], "other": [other]})
    difference = interval(0.05, drawn["one"] - drawn["other"])
    assert 0 < difference.low < 0.05 < difference.high < 0.09
    assert means({"one": [one]})["one"][:5].tolist() == drawn["one"][:5].tolist()  # the same at every call
