"""A row as tokens."""

from dataclasses import dataclass
from typing import Any

import numpy

IGNORED = -100  # the label that PyTorch's cross entropy leaves out

Ids = numpy.ndarray  # (tokens,) int32


@dataclass(frozen=True, slots=True)
class Encoded:
    """A row as tokens: one piece, or several of a long text; and how many of its tokens were cut off."""

    pieces: list[dict[str, Any]]  # Ids, and numbers of the row beside them
    cut: int = 0
    answer_cut: bool = False
    unshown: tuple[int, ...] = ()  # the turns, from 1, whose reasoning the chat template leaves out


def same_tokens(answers: list[Ids]) -> bool:
    """Whether several answers are one and the same."""
    return len(answers) > 1 and all(numpy.array_equal(answers[0], one) for one in answers[1:])
