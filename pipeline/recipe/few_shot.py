"""`evaluation.few_shot`: it compares right answers, so without something that says which are right it would do nothing."""

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.data.shapes.kinds import KINDS, Prompt
from pipeline.recipe.problem import Problem
from pipeline.stage import Spec

_KEY = ("evaluation", "few_shot")


def has_answers(spec: Spec) -> bool:
    """Whether the rows of a stage bring reference answers to what they ask."""
    kind = KINDS[spec.row_kind]
    return spec.head == "causal" and kind.ASKS and kind is not Prompt


def why_idle(name: str, spec: Spec, evaluation: Mapping[str, Any]) -> str | None:
    """Why few_shot has no effect in a stage with this evaluation; None where it has one."""
    if not has_answers(spec):
        return f"cannot take effect: it is not measured in {name}"
    if not evaluation.get("answer_pattern") and not evaluation.get("labels"):
        return "cannot take effect: nothing says which answers are right; set answer_pattern or labels beside it"
    return None


def few_shot_problems(
    specs: Mapping[str, Spec], common: Mapping[str, Any], own: Mapping[str, Mapping[str, Any]]
) -> Iterator[Problem]:
    """Where it could not take effect. `common` is the recipe's evaluation, `own` that of each stage; what is said of all
    stages takes effect if it does in one.
    """
    found = {name: why_idle(name, spec, {**common, **own[name]}) for name, spec in specs.items()}
    for name, why in found.items():
        if why and own[name].get("few_shot"):
            yield ("stages", name, *_KEY), why
    if common.get("few_shot") and found and all(found.values()):
        yield _KEY, "cannot take effect: it needs answer_pattern or labels, and a stage whose rows have answers"
