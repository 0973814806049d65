"""The page of the figures: what each is, how it is computed, where it is measured, and what may be decided by it."""

from collections.abc import Iterator

from pipeline.console.figures import BASELINES, MEANING, NAMES, OF_A_ROLLOUT
from pipeline.plan.measured import NEEDS
from pipeline.recipe.gates import DIFFERENCES, FACTORS, LOWER_IS_BETTER
from pipeline.recipe.keep import DEPENDS, measured
from pipeline.recipe.sections import Evaluation
from pipeline.recipe.texts import PACKAGES
from pipeline.reference.keys import some_stages, stages_of
from pipeline.reference.markdown import codes, page, table
from pipeline.reference.meanings import ENGINE, of_functions
from pipeline.stage import Spec, specs

# What an evaluation that asks for all of them says; the keys and not their values count.
_ALL = {"score_function": "score.py:score", "text": list(PACKAGES)}
_LIKE = {"win_rate": "mean_score", "no_label": "accuracy", "kl": "mean_reward"}  # measured where that one is
_KINDS = {  # the functions of evaluate/measures.py, and of what they tell
    "language_model": "loss and perplexity",
    "preference": "preference accuracy of pairs",
    "labeled": "preference accuracy of labeled answers",
    "reward": "reward accuracy",
}


def figures_page() -> str:
    measures = of_functions(ENGINE / "evaluate" / "measures.py")
    return page(
        "Figures",
        "Every stage is measured on held-out rows, before its first step and after its last; *n* is how many. "
        "[Figures, labels, a judge](../how-to/figures.md) says how to ask for more.",
        table(["figure", "what it is", "better", "stages", "needs", "may decide"], _rows()),
        "*May decide*: `must_keep` takes a limit for it, `keep` can choose the step by it.",
        "## How they are computed",
        table(["figure", "computed from"], [[what, measures[name]] for name, what in _KINDS.items()]),
        "Answers are greedy, at most `evaluation.max_new_tokens` long, to the first `evaluation.max_rows` held-out prompts. "
        "Every figure before and after comes from the same rows, and the figures before are computed once, before the first "
        "step.",
        "## For comparison",
        "What needs no training: shown beside a figure, so that it can be told from luck.",
        table(["key in the manifest", "what it is"], [[f"`{key}`", words] for key, words in BASELINES.items()]),
        "## Chance",
        "Where 95% of a difference would lie if chance had drawn other rows: a bootstrap that draws the held-out rows in "
        "pairs, before and after, from the 2.5th to the 97.5th percentile. Figures that are no mean of rows (BLEU, chrF, "
        "macro F1) are computed anew from the counts of the rows that were drawn. Of fewer than 30 rows no change is called "
        "better or worse. The sources stand in [`intervals.py`](../../pipeline/evaluate/intervals.py).",
    )


def _rows() -> Iterator[list[str]]:
    for figure, said in MEANING.items():
        meaning = said.replace("; lower is better", "").replace("; lower is closer", "")
        better = "lower" if figure in LOWER_IS_BETTER else "higher"
        needs = NEEDS.get(_LIKE.get(figure, figure), "evaluation.judge")
        decides = [key for key, known in (("must_keep", FACTORS | DIFFERENCES), ("keep", DEPENDS)) if figure in known]
        name = NAMES.get(figure)
        shown = f"`{figure}`" + (f" ({name})" if name else "")
        yield [
            shown,
            f"{meaning}; of the last rollout" if figure in OF_A_ROLLOUT else meaning,
            better,
            _stages(figure),
            needs,
            codes(decides),
        ]


def _stages(figure: str) -> str:
    if _LIKE.get(figure, figure) not in NEEDS:  # a judge's
        return some_stages(stages_of(Evaluation, "judge"))
    return some_stages([name for name, spec in specs().items() if _LIKE.get(figure, figure) in _measured(spec)])


def _measured(spec: Spec) -> set[str]:
    return {
        name
        for ask in ({"labels": ["a", "b"]}, {"answer_pattern": "."})
        for name in measured(spec, _ALL | ask, dict(spec.defaults))
    }
