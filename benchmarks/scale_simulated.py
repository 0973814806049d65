"""Two things that wear many ranks down, played through by chance with a fixed seed: one of them is slow, or one is lost."""

import math

import numpy as np

SEED = 42


def straggling(ranks: int, sigma: float, passes: int = 1, steps: int = 4000, seed: int = SEED) -> float:
    """How many times longer a step takes than one rank alone needs, where all wait for the slowest: each pass of each rank
    takes a log-normal time with this sigma, and they meet once in so many passes.
    """
    random = np.random.default_rng(seed)
    slowest = total = 0.0
    for _ in range(steps):
        times = random.lognormal(0.0, sigma, (ranks, passes)).sum(axis=1)
        slowest += times.max()
        total += times.mean()
    return slowest / total


def young(cost: float, between: float) -> float:
    """The best seconds of work between checkpoints that cost so many, by Young (doi:10.1145/361147.361115):
    sqrt(2 C M), with M seconds between failures on average.
    """
    return math.sqrt(2 * cost * between)


def daly(cost: float, between: float) -> float:
    """The same to a higher order, by Daly (doi:10.1016/j.future.2004.11.016), for C < 2 M."""
    if cost >= 2 * between:
        return between
    root = math.sqrt(cost / (2 * between))
    return young(cost, between) * (1 + root / 3 + root**2 / 9) - cost


def expected(work: float, every: float, cost: float, restart: float, between: float) -> float:
    """Seconds that so much work takes on average, by Daly's model: failures come by an exponential law, also while a checkpoint
    is written and while it starts again.
    """
    return between * math.exp(restart / between) * (math.exp((every + cost) / between) - 1) * work / every


def lost_ranks(work: float, every: float, cost: float, restart: float, between: float, seed: int = SEED) -> float:
    """The same, played through: pieces of `every` seconds and a checkpoint, each begun again until no failure hits it."""
    random = np.random.default_rng(seed)
    pieces = max(round(work / every), 1)
    took = np.zeros(pieces)
    pending, wants = np.arange(pieces), every + cost
    while pending.size:
        until = random.exponential(between, pending.size)
        took[pending] += np.minimum(until, wants)
        pending = pending[until < wants]
        wants = restart + every + cost
    return float(took.sum()) * work / (pieces * every)


def best_interval(cost: float, restart: float, between: float, work: float = 3.6e7) -> tuple[float, float]:
    """(the seconds between checkpoints that take least time in all, that time for each second of work), by simulation over
    intervals a tenth apart, around Young's.
    """
    tried = [young(cost, between) * 1.1**power for power in range(-12, 13)]
    took = [lost_ranks(work, every, cost, restart, between) / work for every in tried]
    least = int(np.argmin(took))
    return tried[least], took[least]
