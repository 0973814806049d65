"""The held-out figures of a stage: before its first step, in the middle of training, and after the last."""

import json
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path

from pipeline.artifact.attempt import Attempt
from pipeline.artifact.writing import write_json
from pipeline.data.prepare.table import tokens
from pipeline.evaluate.evaluation import Evaluation
from pipeline.evaluate.figures import Figures
from pipeline.recipe.fields import effective
from pipeline.stage import Spec
from pipeline.train.earlier import Earlier
from pipeline.train.job.checked_job import CheckedJob
from pipeline.train.judging import Judging
from pipeline.train.models import StageModels
from pipeline.train.rows import StageRows, evaluated
from pipeline.train.samples import Samples


class Measuring:
    """One evaluation for all of them, so that they can be compared. Where each process holds a part of the model, all of them
    make it, each the same, and the first keeps what it found.
    """

    def __init__(self, checked: CheckedJob, rows: StageRows, models: StageModels, report: Callable[..., None]):
        self.checked, self.rows, self.models, self.report = checked, rows, models, report
        self.ranks = checked.ranks.together
        self.earlier = Earlier(checked, rows, report)
        self.judging = Judging(checked, report)
        self._last: tuple[int | None, Figures | None] = None, None  # the step of the latest figures, and they

    @cached_property
    def evaluation(self) -> Evaluation:
        checked, data = self.checked, self.rows.prepared
        settings = checked.shrinking.evaluated()
        some = evaluated(data.held_out, settings.max_rows, bool(checked.settings.data.mixture))
        return Evaluation(
            settings=settings,
            tokenizer=self.rows.tokenizer.tokenizer,
            head=checked.spec.head,
            kind=checked.spec.row_kind,
            held_out=list(data.examples(some)),
            columns=list(tokens(some)),
            trained=data.examples(data.trained),
            beta=effective_beta(checked.spec, checked.step.given),
            reward=self.models.reward,
        )

    @cached_property
    def samples(self) -> Samples:
        return Samples(self.checked.folder, self.evaluation.held_out)

    def before(self, model) -> Figures:
        """Of what training starts from: computed once, before the first step, and kept."""
        file = self.checked.folder / "before.json"
        if not self.ranks.told(file.is_file()):
            self.report("phase", name="evaluation before")
            self._say_what_is_cut()
            found = self.evaluation.run(model)
            if self.ranks.first:
                write_json(file, found.to_json())
        self.ranks.wait()
        return Figures(**json.loads(file.read_text(encoding="utf-8")))

    def _say_what_is_cut(self) -> None:
        """Answers that could not be right, however well they are learned."""
        cut, judged = self.evaluation.cut_short()
        if cut:
            most = self.evaluation.settings.max_new_tokens
            said = f"{cut} of the {judged} held-out rows have an answer that would be judged wrong when it is cut"
            self.report("note", text=f"evaluation.max_new_tokens: {said} at {most} tokens, as a policy's is")

    def in_between(self, model, step: int) -> dict[str, float]:
        """Of the model at a step; its answers are kept as samples."""
        self.report("phase", name="evaluation", step=step)
        figures = self.evaluation.run(model, self.before(model))
        self._last = step, figures
        self.report("evaluated", step=step, metrics=figures.metrics)
        if self.ranks.first:
            self.samples.keep(step, figures.completions)
        self.report("phase", name="training", step=step)
        return figures.metrics

    def after(self, model, step: int, before: Figures) -> Figures:
        """Of what was trained; those of its last step, where that was evaluated."""
        self.report("phase", name="evaluation after")
        last, figures = self._last
        figures = figures if last == step else self.evaluation.run(model, before)
        self.earlier.after(model)
        if self.ranks.first:
            self.judging.after(model, self.evaluation, before, figures)
        return figures

    def again(self) -> tuple[Figures, Figures]:
        """Of a finished stage before and after, both anew: the weights are there, the evaluation is another."""
        self.report("phase", name="model")
        model = self.models.on_device(self.models.at_the_start())
        self.judging.check(model)
        self.report("phase", name="evaluation before")
        before = self.evaluation.run(model)
        self.earlier.forget()
        self.earlier.before(model)
        model = self.models.trained(model, self.checked.attempt)
        self.report("phase", name="evaluation after")
        after = self.evaluation.run(model, before)
        self.earlier.after(model)
        self.judging.after(model, self.evaluation, before, after)
        write_json(self.checked.folder / "before.json", before.to_json())
        return before, after

    def others(self, folders: Iterable[Path]) -> Iterator[tuple[Path, Figures]]:
        """Of finished attempts that start where this stage starts, each asked what this stage is asked."""
        self.report("phase", name="model")
        model = self.models.on_device(self.models.at_the_start())
        before = self.before(model)
        for folder in folders:
            self.report("phase", name=f"evaluation of {folder.name}")
            attempt = Attempt(folder)
            attempt.check_content()
            model = self.models.other(model, attempt)
            yield folder, self.evaluation.run(model, before)


def effective_beta(spec: Spec, given: dict) -> float | None:
    """DPO's beta where its loss is the plain sigmoid one, whose held-out value is then worth a figure."""
    values = effective(spec.config, given)
    return values.get("beta") if spec.reference and values.get("loss_type") in ("sigmoid", ["sigmoid"]) else None
