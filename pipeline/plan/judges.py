"""Whether the judge of a stage's answers can be had: its key, or the reward model of the recipe."""

from collections.abc import Iterable, Iterator

from pipeline.errors import PipelineError, Together
from pipeline.plan.step import CONTINUE, EVALUATE, RUN, Step
from pipeline.recipe.chain import stages_below
from pipeline.recipe.judging import Judge
from pipeline.recipe.recipe import Recipe
from pipeline.stage import specs


def judge_of(recipe: Recipe, name: str) -> Judge | None:
    """Who judges the answers of a stage; none where it gives no answers."""
    spec = specs()[name]
    return recipe.stage(name).evaluation.judge if spec.head == "causal" and spec.row_kind != "text" else None


def scoring_stage(recipe: Recipe) -> str | None:
    """The recipe's stage that trains a reward model."""
    return next((name for name in recipe.stages if specs()[name].head == "score"), None)


def judged_by(recipe: Recipe, name: str) -> str | None:
    """The stage whose reward model judges another, and that comes first; None where there is none that could."""
    judge = judge_of(recipe, name)
    scoring = scoring_stage(recipe) if judge and judge.reward and not recipe.reward(name) else None
    return None if scoring is None or name in _below(recipe, scoring) else scoring


def check(recipe: Recipe, steps: Iterable[Step]) -> None:
    """Of those that are to be trained or measured. Raises PipelineError."""
    together = Together()
    for step in steps:
        if step.state in (RUN, CONTINUE, EVALUATE):
            for error in _problems(recipe, step.stage):
                with together.noting():
                    raise error
    together.tell()


def notes(recipe: Recipe, step: Step) -> Iterator[str]:
    """What a run needs and a plan does not: the judge's key."""
    if step.state in (RUN, CONTINUE, EVALUATE) and (judge := judge_of(recipe, step.stage)) and judge.key_is_missing:
        yield f"evaluation.judge.key_from: there is no {judge.key_from} in the environment, and the run needs it"


def need_keys(recipe: Recipe, steps: Iterable[Step]) -> None:
    """Before anything is run. Raises PipelineError for the judges' keys that are not there."""
    lacking = [(step.stage, note) for step in steps for note in notes(recipe, step)]
    if lacking:
        judges = [judge_of(recipe, name) for name, _ in lacking]
        names = dict.fromkeys(judge.key_from for judge in judges if judge)
        said = "\n".join(f"{name}: {note}." for name, note in lacking)
        raise PipelineError(said, f"Put the judge's key there: {'; '.join(f'export {one}=...' for one in names)}")


def _problems(recipe: Recipe, name: str) -> Iterator[PipelineError]:
    judge = judge_of(recipe, name)
    if judge is None:
        return
    if judge.reward and not recipe.reward(name) and judged_by(recipe, name) is None:
        scoring, where = scoring_stage(recipe), f"{name}: evaluation.judge: reward"
        if scoring is None:
            said = f"{where}: the recipe has no stage that trains a reward model."
            yield PipelineError(said, "Add one, or name an address as the judge.")
        else:
            said = f"{where}: {scoring} stands on {name} itself."
            yield PipelineError(said, "Name an address as the judge here; the reward model can judge other stages.")


def _below(recipe: Recipe, name: str) -> list[str]:
    return stages_below(name, {one: own.policy for one, own in recipe.stages.items()})
