"""How much is held out, where that is a share: a prompt is on one side with all its rows, however many they are.

A prompt is held out by its hash alone, so that rows added later move none. Where some prompts stand in many rows this
can take far more than was asked for, or nothing: then the largest of them go back, or the one that comes nearest to the
share is taken. Only then: a set without repeated prompts is always split by the hash.
"""

import numpy

# In standard deviations of a set of single rows: what is still chance, and what is told though it may be.
_CHANCE, _TOLD = 3, 2


def given_back(held_out: numpy.ndarray, kept: int, share: float) -> numpy.ndarray:
    """(rows,) which of the held-out rows are to be trained on instead.

    They are given by their prompts' hashes; `kept` is the number of all rows, held out or not.
    """
    prompts, of_prompt, rows = numpy.unique(held_out, return_inverse=True, return_counts=True)
    back: numpy.ndarray = numpy.zeros(len(prompts), dtype=bool)
    left, wanted = len(held_out), share * kept
    if left > max(2 * wanted, wanted + _CHANCE * _deviation(kept, share)) or _more_than_half(left, kept, share):
        for number in numpy.lexsort((prompts, -rows)):  # the largest first
            if rows[number] > 1 and abs(left - rows[number] - wanted) < abs(left - wanted):
                back[number] = True
                left -= rows[number]
    return back[of_prompt]


def taken(trained: numpy.ndarray, share: float) -> numpy.ndarray:
    """(rows,) which of the trained rows are to be held out, where none is: those of one prompt, or none."""
    prompts, of_prompt, rows = numpy.unique(trained, return_inverse=True, return_counts=True)
    nearer: numpy.ndarray = numpy.zeros(len(prompts), dtype=bool)
    wanted = share * len(trained)
    if wanted >= 1 and (rows > 1).any():
        away = abs(rows - wanted)
        nearest = numpy.lexsort((prompts, away))[0]
        nearer[nearest] = away[nearest] < wanted and not _more_than_half(rows[nearest], len(trained), share)
    return nearer[of_prompt]


def is_far_from(held_out: int, kept: int, share: float) -> bool:
    """Whether so many held-out rows are another share than was asked for."""
    wanted = share * kept
    return abs(held_out - wanted) > max(wanted / 2, _TOLD * _deviation(kept, share)) or _more_than_half(
        held_out, kept, share
    )


def _deviation(kept: int, share: float) -> float:
    return (kept * share * (1 - share)) ** 0.5


def _more_than_half(held_out: int, kept: int, share: float) -> bool:
    return share < 0.5 and 2 * held_out > kept
