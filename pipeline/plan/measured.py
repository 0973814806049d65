"""Which figures a stage will have, and when: told by the plan, so that what it `must_keep`, or is to choose by, is not
missed at its end.
"""

from collections.abc import Iterable

from pipeline.data.shapes.kinds import KINDS, Prompt
from pipeline.errors import PipelineError
from pipeline.recipe import keep
from pipeline.recipe.chain import stages_below
from pipeline.recipe.fields import effective
from pipeline.recipe.recipe import Recipe
from pipeline.recipe.texts import PACKAGES
from pipeline.stage import specs
from pipeline.wording import listed

# What would have to be there, on the stage's own rows or on those of an earlier stage.
NEEDS = {
    "exact_match": "evaluation.answer_pattern, and no labels",
    **dict.fromkeys(("accuracy", "macro_f1"), "evaluation.labels"),
    **{figure: f"evaluation.text: [{figure}]" for figure in PACKAGES},
    "mean_score": "evaluation.score_function",
    "mean_reward": "a stage that samples responses",
    "reward_accuracy": "a reward model that is trained",
    "preference_accuracy": "held-out pairs, or labeled answers",
    "loss": "held-out text or answers to learn, or pairs under the sigmoid loss alone",
    "perplexity": "held-out text or answers to learn",
}
# Figures of an earlier stage that later ones do not measure again, see `train.earlier`.
NOT_AGAIN = {"mean_score", *PACKAGES}


def refuse_no_choice(recipe: Recipe, names: Iterable[str]) -> None:
    """Raises PipelineError where stages are to keep their best step and measure one alone. Where the rows decide how many
    steps there are, the stage's own process says so before the first.
    """
    for name in names:
        stage = recipe.stage(name)
        values = effective(specs()[name].config, recipe.given(name, full=False))
        if stage.best and (why := keep.too_rare(values)):
            raise PipelineError(f"{recipe.place('stages', name, 'keep')}: {why}.", "Lower train.eval_steps.")


def refuse_unmeasured(recipe: Recipe, names: Iterable[str], overridden: str | None) -> None:
    """Raises PipelineError where stages must keep figures that nothing will measure.

    `overridden` is the stage that starts from a policy given on the command line.
    """
    wrong: dict[str, str] = {}
    for name in names:
        there = measured(recipe, name, overridden)
        if there is None:
            continue
        for figure in recipe.stages[name].must_keep:
            if figure not in there:
                where = recipe.place("stages", name, "must_keep")
                wrong[f"{where}: nothing measures {figure} here, which needs {NEEDS[figure]}."] = (
                    f"{name} has {listed(sorted(there))}." if there else f"{name} {_why_none(recipe, name)}."
                )
    if wrong:
        raise PipelineError("\n".join(wrong), "\n".join(dict.fromkeys(wrong.values())))


def measured(recipe: Recipe, name: str, overridden: str | None = None) -> set[str] | None:
    """The figures of a stage, on its own rows and on those of earlier stages; None where a policy from elsewhere, whose
    stages are not known here, may bring more.
    """
    found, spec = _of(recipe, name), specs()[name]
    if spec.head != "causal" or not recipe.stage(name).evaluation.earlier_stages:
        return found
    chain = [name, *stages_below(name, {one: recipe.stages[one].policy for one in recipe.stages})]
    if overridden in chain or (recipe.stages[chain[-1]].policy and not recipe.parent(chain[-1])):
        return None
    for earlier in chain[1:]:
        if KINDS[specs()[earlier].row_kind] is not Prompt:
            found |= _of(recipe, earlier) - NOT_AGAIN
    return found


def _why_none(recipe: Recipe, name: str) -> str:
    stage = recipe.stage(name)
    if stage.data.held_out and not stage.evaluation.max_rows:
        return "measures none of its held-out rows: evaluation.max_rows is 0"
    return "has no held-out rows to measure"


def _of(recipe: Recipe, name: str) -> set[str]:
    stage, spec = recipe.stage(name), specs()[name]
    if not stage.evaluation.max_rows or not stage.data.held_out:
        return set()
    return set(keep.measured(spec, stage.evaluation.model_dump(), recipe.given(name, full=False)))
