"""What a stage does to what earlier ones taught: its policy on the held-out rows of every stage that it stands on.

Measured as those stages were measured, before the first step and after the last. What the parent's own run has found of
the very weights that training starts from is not measured again.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from pipeline.artifact.attempt import ROWS, Attempt
from pipeline.artifact.writing import write_json
from pipeline.data.prepare.one_pass import ACCOUNT, Prepared
from pipeline.data.prepare.table import tokens
from pipeline.data.shapes.kinds import KINDS, Prompt
from pipeline.evaluate.evaluation import Evaluation
from pipeline.evaluate.figures import Figures
from pipeline.evaluate.intervals import differences
from pipeline.recipe.sections import Evaluation as Settings
from pipeline.stage import specs
from pipeline.train.job.checked_job import CheckedJob
from pipeline.train.rows import StageRows, evaluated

BEFORE, AFTER = "earlier_before.json", "earlier.json"  # in a stage's folder: what each earlier stage's rows gave
OWN = "after.json"  # what its own rows gave


@dataclass(frozen=True)
class Taught:
    """An earlier stage of the policy, with the rows that tell what it taught."""

    name: str
    attempt: Attempt
    evaluation: Evaluation

    @property
    def asked(self) -> str:
        """What its rows are asked: figures of another evaluation are others."""
        return self.attempt.manifest["evaluation"]["sha256"]


class Earlier:
    """The earlier stages of the policy that a stage trains."""

    def __init__(self, checked: CheckedJob, rows: StageRows, report: Callable[..., None]):
        self.checked, self.rows, self.report = checked, rows, report
        self.folder, self.ranks = checked.folder, checked.ranks.together
        self._after: dict[str, Figures] = {}

    def before(self, model) -> None:
        """Of what training starts from: computed or found once, before the first step, and kept."""
        known = self.ranks.told(self._known())
        missing = [one for one in self.taught if known.get(one.name, {}).get("asked") != one.asked]
        if missing:  # rows that were gone when an earlier process began may be there again
            found = {one.name: self.ranks.told(self._found(one)) or self._measured(one, model) for one in missing}
            if self.ranks.first:
                write_json(self.folder / BEFORE, known | self._kept(found))

    def forget(self) -> None:
        """Measure all of it again."""
        (self.folder / BEFORE).unlink(missing_ok=True)

    def after(self, model) -> None:
        """Of what was trained."""
        self._after = {one.name: self._measured(one, model) for one in self.taught}
        if self.ranks.first:
            write_json(self.folder / AFTER, self._kept(self._after))

    def summary(self) -> dict:
        """For the manifest: each earlier stage's figures before and after, and their differences."""
        if not self._after:
            return {}
        kept, said = self._known(), {}
        for one in self.taught:
            was, now = Figures(**kept[one.name]["figures"]), self._after[one.name]
            said[one.name] = {
                "fingerprint": one.attempt.folder.name,
                "before": _shown(was, now),
                "after": _shown(now, now),
                "differences": {figure: found.to_json() for figure, found in differences(was, now).items()},
            }
        return said

    @cached_property
    def taught(self) -> list[Taught]:
        """The earliest first. A reward model learns no policy's abilities, and forgets none."""
        if self.checked.spec.head != "causal" or not self.checked.settings.evaluation.earlier_stages:
            return []
        found: dict[str, Taught] = {}
        for attempt in reversed(self.rows.ancestors()):
            stage = attempt.manifest["stage"]
            name = stage if stage not in found else f"{stage} {attempt.folder.name}"
            if evaluation := self._evaluation(name, attempt):
                found[name] = Taught(name, attempt, evaluation)
        return list(found.values())

    def _evaluation(self, name: str, attempt: Attempt) -> Evaluation | None:
        """As that stage was measured, but for what needs a reward or a person's function."""
        manifest, kind = attempt.manifest, specs()[attempt.manifest["stage"]].row_kind
        prepared = Prepared(attempt.folder.parents[2] / ROWS / manifest["data"]["prepared"], kind)
        if KINDS[kind] is Prompt or not manifest["metrics"]["after"].get("n"):
            return None
        if not (prepared.folder / ACCOUNT).is_file():
            self.report("note", text=f"what {name} taught is not measured: its rows are not kept any more")
            return None
        said = Settings(**manifest["evaluation"]["settings"])
        some = evaluated(prepared.held_out, said.max_rows, bool(manifest["inputs"]["data"].get("mixture")))
        return Evaluation(
            settings=said.model_copy(update=self._apart(said)),
            tokenizer=self.rows.tokenizer.tokenizer,
            head="causal",
            kind=kind,
            held_out=list(prepared.examples(some)),
            columns=list(tokens(some)),
            trained=(),
        )

    def _apart(self, said: Settings) -> dict[str, object]:
        """What is otherwise than when that stage was measured; it changes none of the figures."""
        rows = min(said.batch_size, self.checked.shrinking.evaluated().batch_size)
        return {"samples": 0, "few_shot": 0, "score_function": None, "text": [], "judge": None, "batch_size": rows}

    def _measured(self, one: Taught, model) -> Figures:
        self.report("phase", name=f"what {one.name} taught")
        return one.evaluation.run(model)

    def _found(self, one: Taught) -> Figures | None:
        """What the parent's own run has found of these rows."""
        parent = self.checked.step.parent.attempt.folder
        try:
            if one.attempt.folder == parent:
                return Figures(**json.loads((parent / OWN).read_text(encoding="utf-8")))
            said = json.loads((parent / AFTER).read_text(encoding="utf-8"))[one.name]
            return Figures(**said["figures"]) if said["asked"] == one.asked else None
        except (OSError, ValueError, KeyError, TypeError):  # of an earlier version, or damaged
            return None

    def _kept(self, found: dict[str, Figures]) -> dict:
        return {
            one.name: {"asked": one.asked, "figures": found[one.name].to_json()}
            for one in self.taught
            if one.name in found
        }

    def _known(self) -> dict:
        """What `before` has kept."""
        file = self.folder / BEFORE
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _shown(figures: Figures, measured: Figures) -> dict[str, float]:
    """What was measured here: the stage's own run may have found more."""
    return {name: figures.metrics[name] for name in measured.metrics if name in figures.metrics}
