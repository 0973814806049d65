"""`keep: {best: exact_match}` in a stage: of the steps that were measured, the one with the best held-out figure is the artifact.

It changes what is trained, so the fingerprint counts it with all that the figure depends on. Without it the last step is
the artifact, and no evaluation changes it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline import stage
from pipeline.recipe import steps
from pipeline.recipe.fields import effective
from pipeline.recipe.problem import Problem
from pipeline.recipe.texts import PACKAGES
from pipeline.section import Section
from pipeline.wording import did_you_mean, listed

WHEN = ("eval_strategy", "eval_steps", "eval_delay")  # which steps are measured
# Settings of the evaluation on which each figure depends, beside max_rows.
_ASKED = ("max_new_tokens",)
_LABELED = (*_ASKED, "answer_pattern", "labels")
DEPENDS = {
    **dict.fromkeys(("loss", "perplexity", "preference_accuracy", "reward_accuracy"), ()),
    **dict.fromkeys(("exact_match", "accuracy", "macro_f1"), _LABELED),
    "mean_score": (*_ASKED, "score_function"),
    **dict.fromkeys(("mean_reward", *PACKAGES), _ASKED),
}


class Keep(Section):
    """What a stage leaves: `best` is the figure that decides."""

    best: str
    """The held-out figure that decides which step is kept; it needs `train.eval_strategy`."""


def keep_of(value: object) -> object:
    if value == "best":
        raise ValueError("names no figure; write keep: {best: loss}, or another one that the stage measures")
    return value


def measured(spec: stage.Spec, evaluation: Mapping[str, Any], train: Mapping[str, Any]) -> list[str]:
    """The held-out figures of a stage that can decide, as far as its recipe tells."""
    answers, prompts = spec.head == "causal" and spec.row_kind != "text", spec.row_kind == "prompt"
    found = {"text": ["loss", "perplexity"], "conversation": ["loss", "perplexity"], "prompt": ["mean_reward"]}
    names = list(found.get(spec.row_kind, ["preference_accuracy"]))
    if spec.head != "causal":
        names = ["reward_accuracy", "loss"]
    elif spec.reference and effective(spec.config, train).get("loss_type") in ("sigmoid", ["sigmoid"]):
        names += ["loss"] if spec.row_kind == "preference" else []
    if answers and evaluation.get("labels"):
        names += ["accuracy", "macro_f1"]
    elif answers and evaluation.get("answer_pattern"):
        names += ["exact_match"]
    if answers and evaluation.get("score_function"):
        names += ["mean_score"]
    text = evaluation.get("text") or []
    texts = [text] if isinstance(text, str) else list(text) if isinstance(text, list | tuple) else []
    return names + (texts if answers and not prompts else [])


def keep_problems(
    name: str, best: object, train: Mapping[str, Any], evaluation: Mapping[str, Any], data: Mapping[str, Any]
) -> Iterator[Problem]:
    """What is wrong with `keep: {best: ...}` of a stage whose sections are these. Takes values of any kind."""
    where, spec = ("stages", name, "keep", "best"), stage.specs()[name]
    if not isinstance(best, str):
        return  # what its section says of it
    names = measured(spec, evaluation, dict(spec.defaults) | dict(train))
    if best not in names:
        hint = did_you_mean(best, names)
        yield where, f"{name} does not measure {best}{hint}; what can decide here: {listed(names)}"
    if train.get("eval_strategy", "no") in ("no", None, False):
        fix = "add train: {eval_strategy: steps, eval_steps: 50}, or epoch"
        yield where, f"there is nothing to choose from, as no step but the last is measured; {fix}"
    if data.get("held_out") == 0 and isinstance(data.get("held_out"), int | float):
        yield where, "no row is held out, so nothing is measured; set data.held_out"


def too_rare(values: Mapping[str, Any]) -> str | None:
    """Why no step but the last would be measured, as far as that is known before the rows are: of a stage with these
    values of its whole config.
    """
    number, every = steps.written(values), values["eval_steps"] or values["logging_steps"]  # as transformers has it
    if values["eval_strategy"] != "steps" or number is None or every < number:
        return None
    return f"there is nothing to choose from: train.eval_steps is {every:g}, and there are {number} steps"


def inputs(best: str, spec: stage.Spec, given: Mapping[str, Any], evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """What the fingerprint has of it. `evaluation` are the stage's settings, its function as the digest of its file."""
    values = effective(spec.config, dict(given))
    when = {key: values.get(key) for key in WHEN}
    if when["eval_strategy"] == "steps" and when["eval_steps"] is None:  # as transformers has it
        when["eval_steps"] = values.get("logging_steps")
    depends: Sequence[str] = ("max_rows", *DEPENDS[best])
    return {"best": best, "when": when, "evaluation": {key: evaluation[key] for key in depends}}
