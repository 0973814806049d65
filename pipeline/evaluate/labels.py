"""Answers that are labels: which label each says, and how often it is the right one, label by label."""

import re
from collections import Counter
from collections.abc import Sequence

import numpy

from pipeline.errors import PipelineError
from pipeline.evaluate.figures import Figures

_MANY = 3  # rows that are quoted


class Labels:
    """`names` are the labels; `pattern` finds where in an answer its label stands, else it stands at the beginning."""

    def __init__(self, names: Sequence[str], pattern: str | None = None):
        self.names, self.pattern = list(names), pattern
        self._by_letters = {name.casefold(): name for name in names}
        # The longest first, as one may begin like another. What ends in a letter of a script with spaces ends a word.
        longest = sorted(names, key=len, reverse=True)
        ends = (re.escape(one) + (r"(?!\w)" if one[-1].isascii() and one[-1].isalnum() else "") for one in longest)
        self._begins = re.compile(rf"\W*?({'|'.join(ends)})", re.IGNORECASE)

    def of(self, text: str) -> str | None:
        """The label that a text says, whatever its letters' case; None where it says none."""
        if self.pattern:
            found = re.search(self.pattern, text)
            said = (found[1] if found.re.groups else found[0]) if found else None
            return self._by_letters.get((said or "").strip().casefold())
        found = self._begins.match(text)
        return self._by_letters[found[1].casefold()] if found else None

    def right(self, references: Sequence[str | None]) -> list[str | None]:
        """The labels of reference answers. Raises PipelineError for one that is none."""
        found = [None if one is None else self.of(one) for one in references]
        strange = [one for one, label in zip(references, found, strict=True) if one is not None and label is None]
        if strange:
            quoted = ", ".join(f'"{" ".join(one.split())[:40]}"' for one in list(dict.fromkeys(strange))[:_MANY])
            raise PipelineError(
                f"evaluation.labels: {len(strange)} of {len(references)} held-out rows have an answer that is none of "
                f"{', '.join(self.names)}: {quoted}.",
                "Name every label that the rows have, or mend the rows.",
            )
        return found

    def measure(self, texts: Sequence[str], right: Sequence[str | None], figures: Figures) -> None:
        """Put macro F1, the table of what was said for what, and the share of the most frequent label into `figures`."""
        both = [(self.of(text), label) for text, label in zip(texts, right, strict=True) if label is not None]
        place = {name: number for number, name in enumerate(self.names)} | {None: len(self.names)}
        table = numpy.zeros((len(self.names), len(self.names) + 1), dtype=int)
        parts = numpy.zeros((len(both), 3, len(self.names) + 1), dtype=int)
        for row, (said, label) in zip(parts, both, strict=True):
            table[place[label], place[said]] += 1
            row[0, place[label]] += said == label
            row[1, place[said]] += 1
            row[2, place[label]] += 1
        parts = parts[:, :, :-1].reshape(len(both), -1)  # that it is no label counts for none
        figures.sum_of("macro_f1", parts.tolist(), macro_f1(parts.sum(axis=0, keepdims=True))[0])
        figures.mean_of("no_label", [said is None for said, _ in both])
        figures.metrics["most_frequent_label"] = max(Counter(label for _, label in both).values()) / len(both)
        figures.confusion = {"labels": self.names, "table": table.tolist()}


def macro_f1(sums: numpy.ndarray) -> numpy.ndarray:
    """(draws,) means over the labels of F1 = 2 * hits / (said + right), for (draws, 3 * labels) sums of the three.

    As scikit-learn's f1_score(average="macro"): labels that are neither right nor said in any row are left out.
    """
    hits, said, right = sums.reshape(len(sums), 3, -1).swapaxes(0, 1).astype(float)
    there = (said + right) > 0
    each = numpy.divide(2 * hits, said + right, out=numpy.zeros_like(hits), where=there)
    return each.sum(axis=1) / numpy.maximum(there.sum(axis=1), 1)
