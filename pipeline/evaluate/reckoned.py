"""Figures that are reckoned from sums over the rows and are no mean of the rows' own numbers.

Of each row its part of the sums is kept (`Figures.parts`). Rows that are drawn anew add up to other sums, and these give the
figure as it would have been.
"""

from collections.abc import Callable

import numpy

from pipeline.evaluate.labels import macro_f1
from pipeline.evaluate.texts import corpus_metric

Formula = Callable[[numpy.ndarray], numpy.ndarray]  # (draws, sums) to (draws,)


def _of_texts(name: str) -> Formula:
    """sacrebleu's own formula; its tokenizer has done its part when the sums are there."""

    def reckoned(sums: numpy.ndarray) -> numpy.ndarray:
        metric = corpus_metric(name)
        return numpy.array([metric._compute_score_from_stats(one.tolist()).score for one in sums])

    return reckoned


FORMULAS: dict[str, Formula] = {"chrf": _of_texts("chrf"), "bleu": _of_texts("bleu"), "macro_f1": macro_f1}
