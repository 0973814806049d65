"""Which figures a stage will have before and after: told by the plan, so that what it `must_keep` is not missed at its end."""

from collections.abc import Iterable, Iterator, Mapping

from pipeline.data.shapes.kinds import KINDS, Prompt
from pipeline.errors import PipelineError
from pipeline.recipe.chain import stages_below
from pipeline.recipe.fields import effective
from pipeline.recipe.recipe import Recipe, StageRecipe
from pipeline.stage import Spec, specs
from pipeline.wording import listed

# Of rows by their kind and the head that is trained on them, as `evaluate.measures` has it; no answer is needed.
OF_ROWS = {
    ("text", "causal"): {"loss", "perplexity"},
    ("conversation", "causal"): {"loss", "perplexity"},
    ("preference", "causal"): {"preference_accuracy"},
    ("preference", "score"): {"loss", "reward_accuracy"},
    ("labeled", "causal"): {"preference_accuracy"},
    ("prompt", "causal"): {"mean_reward"},
}
# What would have to be there, on the stage's own rows or on those of an earlier stage.
NEEDS = {
    "exact_match": "evaluation.answer_pattern",
    "mean_score": "evaluation.score_function",
    "mean_reward": "a stage that samples responses",
    "reward_accuracy": "a reward model that is trained",
    "preference_accuracy": "held-out pairs, or labeled answers",
    "loss": "held-out text or answers to learn, or pairs under the sigmoid loss alone",
    "perplexity": "held-out text or answers to learn",
}


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
                    f"{name} has {listed(sorted(there))}." if there else f"{name} has no held-out rows to measure."
                )
    if wrong:
        raise PipelineError("\n".join(wrong), "\n".join(dict.fromkeys(wrong.values())))


def measured(recipe: Recipe, name: str, overridden: str | None = None) -> set[str] | None:
    """The figures of a stage, on its own rows and on those of earlier stages; None where a policy from elsewhere, whose
    stages are not known here, may bring more.
    """
    own, spec = recipe.stage(name), specs()[name]
    found = set(_of(own, spec))
    if held_out_beta(spec, recipe.given(name, full=False)) is not None and _asks_rows(own):
        found.add("loss")
    if spec.head != "causal" or not own.evaluation.earlier_stages:
        return found
    chain = [name, *stages_below(name, {one: recipe.stages[one].policy for one in recipe.stages})]
    if overridden in chain or (recipe.stages[chain[-1]].policy and not recipe.parent(chain[-1])):
        return None
    for earlier in chain[1:]:
        if KINDS[specs()[earlier].row_kind] is not Prompt:
            found |= set(_of(recipe.stage(earlier), specs()[earlier])) - {"mean_score"}
    return found


def _of(stage: StageRecipe, spec: Spec) -> Iterator[str]:
    """By the rows that are held out, and by what judges answers to them."""
    if not _asks_rows(stage):
        return
    yield from OF_ROWS[spec.row_kind, spec.head]
    if spec.head == "causal" and KINDS[spec.row_kind].ASKS:
        yield from ["exact_match"] if stage.evaluation.answer_pattern else []
        yield from ["mean_score"] if stage.evaluation.score_function else []


def _asks_rows(stage: StageRecipe) -> bool:
    return bool(stage.evaluation.max_rows and stage.data.held_out)


def held_out_beta(spec: Spec, given: Mapping[str, object]) -> float | None:
    """DPO's beta where its loss is the plain sigmoid one, whose held-out value is then worth a figure."""
    values = effective(spec.config, given)
    return values.get("beta") if spec.reference and values.get("loss_type") in ("sigmoid", ["sigmoid"]) else None
