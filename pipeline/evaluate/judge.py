"""Whether an answer is right, as far as the recipe says how to tell."""

import re
from collections.abc import Sequence
from functools import cached_property

import numpy

from pipeline.data.shapes.kinds import Kind
from pipeline.errors import PipelineError
from pipeline.evaluate.labels import Labels
from pipeline.recipe import function


class Judge:
    """By the recipe's section `evaluation`: its answer_pattern, its labels and its score_function."""

    def __init__(self, settings):
        self.settings = settings
        self.labels = Labels(settings.labels, settings.answer_pattern) if settings.labels else None

    @property
    def figure(self) -> str | None:
        """What the share of right answers is called; None where nothing tells which are."""
        return "accuracy" if self.labels else "exact_match" if self.settings.answer_pattern else None

    def right(self, references: Sequence[str | None]) -> list[str | None]:
        """The answers of the references, None where there is none."""
        if self.labels:
            return self.labels.right(references)
        return [None if one is None else self.answer(one) for one in references]

    def answer(self, text: str) -> str | None:
        """The part of a completion that the recipe takes for the answer; None where there is none."""
        if self.labels:
            return self.labels.of(text)
        found = re.search(self.settings.answer_pattern, text)
        return (found[1] if found.re.groups else found[0]).strip() if found else None

    def matches(self, texts: Sequence[str], right: Sequence[str | None]) -> float:
        """The share of right answers, see `each_match`."""
        return float(numpy.mean(self.each_match(texts, right)))

    def each_match(self, texts: Sequence[str], right: Sequence[str | None]) -> list[bool]:
        """Of the rows whose own answer the pattern finds. Raises PipelineError where it finds none."""
        known = [(text, answer) for text, answer in zip(texts, right, strict=True) if answer is not None]
        if not known:
            if self.labels:
                said = f"evaluation.labels: none of the {len(right)} held-out rows has a reference answer."
                raise PipelineError(said, "Leave them out of this stage.")
            raise PipelineError(
                f"evaluation.answer_pattern: {self.settings.answer_pattern}: finds no answer in any of the "
                f"{len(right)} held-out rows, so nothing could be right.",
                "Mend the pattern, or leave it out.",
            )
        return [self.answer(text) == answer for text, answer in known]

    def score(self, examples: Sequence[Kind], completions: Sequence[str]) -> tuple[float, list[float]]:
        """The mean of what the recipe's function makes of each completion, and each by itself."""
        marks = [self._function(one.prompt, text) for one, text in zip(examples, completions, strict=True)]
        try:
            marks = [float(mark) for mark in marks]
        except (TypeError, ValueError) as error:
            raise PipelineError(
                f"evaluation.score_function gave no number: {error}.", "Return one number an answer."
            ) from None
        return float(numpy.mean(marks)), marks

    @cached_property
    def _function(self):
        return function.load(self.settings.score_function, "evaluation.score_function")
