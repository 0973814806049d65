"""Two attempts beside each other: which keys differ, what each ended with, and whether that is more than chance."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from pipeline.artifact.attempt import Attempt, all_attempts
from pipeline.artifact.digests import difference
from pipeline.artifact.writing import write_atomically
from pipeline.errors import PipelineError
from pipeline.evaluate.shares import JUDGED
from pipeline.plan.planner import Planner
from pipeline.recipe import texts
from pipeline.recipe.recipe import Recipe
from pipeline.report import change, curves, verdict
from pipeline.report.answers import BY_ANOTHER, Answers, answers
from pipeline.report.kept import Kept
from pipeline.report.page import rendered
from pipeline.wording import did_you_mean, listed

_SHORTEST = 4  # characters of a fingerprint


class Beside:
    """Attempt `b` against attempt `a`."""

    def __init__(self, a: Attempt, b: Attempt):
        self.a, self.b = Kept(a), Kept(b)
        if complaint := self.a.complaint or self.b.complaint:
            raise PipelineError(complaint, "Name another attempt.")

    @property
    def names(self) -> tuple[str, str]:
        return self.a.name, self.b.name

    @property
    def stages(self) -> list[str]:
        return list(dict.fromkeys(kept.folder.resolve().parent.name for kept in (self.a, self.b)))

    @cached_property
    def keys(self) -> list[str]:
        """A line a key of the inputs that differs: train.beta: 0.1 -> 0.05."""
        return list(difference(self.a.inputs, self.b.inputs))

    @cached_property
    def paired(self) -> bool:
        """Whether both were asked the same rows in the same way, and every row's numbers are kept."""
        same = self.a.inputs.get("data") == self.b.inputs.get("data")
        asked = [(kept.manifest or {}).get("evaluation", {}).get("sha256") for kept in (self.a, self.b)]
        return bool(
            same and None not in asked and asked[0] == asked[1] and self.a.after["each"] and self.b.after["each"]
        )

    @cached_property
    def changes(self) -> list[change.Change]:
        """Of the figures that both ended with. They are compared row by row where they are of the same rows."""
        from pipeline.evaluate.intervals import differences  # numpy: what compares no attempts does not wait for it

        was, now = self.a.after, self.b.after
        known = {}
        if self.paired:
            found = differences(_by_row(was), _by_row(now))
            known = {name: one.to_json() for name, one in found.items()}
        compared = change.changes(was, now, known, even={})
        return [one for one in compared if one.before is not None and one.after is not None]

    @property
    def notes(self) -> Iterator[str]:
        if len(self.stages) > 1:
            yield f"They are attempts at two stages, {listed(self.stages)}: a figure of one may mean another thing in the other."
        if unfinished := [kept.name for kept in (self.a, self.b) if not kept.manifest]:
            yield f"{listed(unfinished)} {'is' if len(unfinished) == 1 else 'are'} not finished: there are no figures after it."
        elif not self.paired:
            yield (
                "They were not asked the same rows in the same way, or the rows' own numbers were not kept: a difference is "
                "reckoned as if of different rows, and only that of a share."
            )

    @property
    def verdict(self) -> tuple[str, str]:
        """(one of verdict.MARKS, a sentence)"""
        name = self.b.name
        judged = [one for one in self.changes if one.name not in change.SAME_AS]
        better, worse = (
            [one.label for one in judged if one.verdict == which] for which in (change.BETTER, change.WORSE)
        )
        open_figures = [one.label for one in judged if one.verdict in (change.FEW, change.UNKNOWN)]
        if better and worse:
            return (
                verdict.BOTH,
                f"{name} has the better {listed(better)} and the worse {listed(worse)}, more than chance explains.",
            )
        if better or worse:
            which, mark = ("better", verdict.LEARNED) if better else ("worse", verdict.LOST)
            return mark, f"{name} has the {which} {listed(better or worse)}, more than chance explains."
        if open_figures or not judged:
            said = f" of {listed(open_figures)}" if open_figures else ""
            return verdict.OPEN, f"Which is better is not known: nothing can be told{said}."
        return verdict.NOTHING, "What both ended with differs by no more than chance."

    @cached_property
    def charts(self) -> list[curves.Chart]:
        return list(curves.beside(self.a.log.lines, self.b.log.lines, self.names))

    @cached_property
    def answers(self) -> Answers:
        """Those of both to the prompts that both were asked."""
        other = {one["prompt"]: one["after"] for one in self.b.samples}
        both = [
            one | {"before": one["after"], "after": other[one["prompt"]]}
            for one in self.a.samples
            if one["prompt"] in other
        ]
        known = (self.a.after, self.b.after) if self.paired else ({"each": {}}, {"each": {}})
        return answers(both, *known, BY_ANOTHER)

    def to_json(self) -> dict:
        figures = {
            one.name: {
                "a": one.before,
                "b": one.after,
                "difference": one.difference,
                "low": one.low,
                "high": one.high,
                "verdict": one.verdict,
                "rows": one.rows,
            }
            for one in self.changes
        }
        folders = [str(kept.folder) for kept in (self.a, self.b)]
        return {"a": folders[0], "b": folders[1], "keys": self.keys, "figures": figures, "notes": list(self.notes)}

    def write(self, folder: Path) -> Path:
        """The page, in the folder of a recipe's attempts."""
        mark, answer = self.verdict
        text = rendered("diff.html", beside=self, mark=mark, sign=verdict.MARKS[mark][0], answer=answer, live=None)
        file = folder / f"diff-{'-'.join(self.names)}.html"
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(file, text)
        return file


def find(name: str, recipe: Recipe, runs: Path) -> Attempt:
    """What a person means: a stage as the recipe stands, an attempt's folder, or the beginning of its fingerprint.

    Raises PipelineError for what is none of these, or more than one of them.
    """
    if name in recipe.stages:
        step = Planner(recipe, runs).plan([name])[-1]
        if step.attempt is None or not step.attempt.folder.is_dir():
            raise PipelineError(
                f"{name}: there is no attempt at it as the recipe stands ({step.why}).", f"Run it: align run {name}"
            )
        return step.attempt
    folder = Path(name)
    for place in (folder, folder.parent):
        if folder.is_dir() and (place / "inputs.json").is_file():
            return Attempt(place.resolve())
    stage, _, begin = name.rpartition("/")
    there = [one for each in ([stage] if stage else recipe.stages) for one in all_attempts(runs / recipe.name / each)]
    found = [one for one in there if one.folder.name.startswith(begin)] if len(begin) >= _SHORTEST else []
    exact = [one for one in found if one.folder.name == begin]
    if len(exact or found) == 1:
        return (exact or found)[0]
    if found:
        raise PipelineError(
            f"{name}: {len(found)} attempts begin so: {listed(one.folder.name for one in found)}.", "Name more of it."
        )
    known = [*recipe.stages, *(one.folder.name for one in there)]
    raise PipelineError(
        f"{name}: is neither a stage of {recipe.path} nor an attempt in {runs / recipe.name}{did_you_mean(name, known)}.",
        "Name a stage, the folder of an attempt, or the beginning of its fingerprint, as `align status` and the report show them.",
    )


def _by_row(found: dict):
    """Figures of which every row has its numbers: a judge may have left out some, and two attempts not the same ones.

    What is reckoned by a package that is not installed here is left out.
    """
    from pipeline.evaluate.figures import Figures

    n = found["metrics"].get("n")
    each = {name: rows for name, rows in found["each"].items() if name not in JUDGED or len(rows) == n}
    parts = {name: rows for name, rows in found.get("parts", {}).items() if not texts.missing([name])}
    return Figures(each=each, weights=found["weights"], parts=parts)
