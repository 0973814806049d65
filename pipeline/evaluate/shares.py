"""How far chance moves a share of rows that is known by its value alone. Light: nothing but arithmetic.

Wilson's score interval of one share (E. B. Wilson, Journal of the American Statistical Association 22, 1927, 209-212), and
of the difference of two Newcombe's hybrid of both (R. G. Newcombe, Statistics in Medicine 17, 1998, 873-890, method 10).
The latter takes the two for shares of different rows: where they are of the same ones it says too much rather than too
little. All are 95% intervals.
"""

from math import hypot, sqrt

JUDGED = ("judged_win_rate", "win_rate_over_reference")  # of the rows alone on which a judge gave a verdict
# Shares that compare by themselves, and what they are where nothing is better.
EVEN = {"win_rate": 0.5, "judged_win_rate": 0.5}
Z = 1.959964  # the 97.5th percentile of the normal distribution


def wilson(share: float, rows: int) -> tuple[float, float]:
    """(low, high) of a share of so many rows."""
    middle, spread = share + Z * Z / (2 * rows), Z * sqrt(share * (1 - share) / rows + Z * Z / (4 * rows * rows))
    whole = 1 + Z * Z / rows
    return max((middle - spread) / whole, 0.0), min((middle + spread) / whole, 1.0)


def newcombe(was: float, rows_before: int, now: float, rows_now: int) -> tuple[float, float]:
    """(low, high) of now - was."""
    (low_was, high_was), (low, high) = wilson(was, rows_before), wilson(now, rows_now)
    return now - was - hypot(now - low, high_was - was), now - was + hypot(high - now, was - low_was)
