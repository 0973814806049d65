"""One stage of one recipe, from its rows to its manifest. Runs inside the stage's own process, or in each of several.

`StageRun.run` is the story: look at the rows, load, measure, train, measure, save, sign. Each of its words has a file:
`rows`, `models`, `measuring`, `trainer`, `saving`, `record`.
"""

import importlib
from collections.abc import Callable
from pathlib import Path

from peft import PeftModel

from pipeline.artifact.writing import write_json
from pipeline.data.prepare.table import tokens
from pipeline.evaluate.figures import Figures
from pipeline.model.adapters import METHODS
from pipeline.model.saving import save
from pipeline.plan import trackers
from pipeline.train import room
from pipeline.train.job import machine
from pipeline.train.job.checked_job import CheckedJob
from pipeline.train.job.interruption import Interruption
from pipeline.train.job.job import INTERRUPTED
from pipeline.train.loop.best import Best
from pipeline.train.loop.context import Context
from pipeline.train.loop.reference import Reference
from pipeline.train.measuring import Measuring
from pipeline.train.models import StageModels
from pipeline.train.record import Record
from pipeline.train.rows import StageRows
from pipeline.train.trackers.tracker import About
from pipeline.train.trackers.tracking import Tracking


class StageRun:
    """One run of a stage whose job has been checked, with the heavy libraries loaded."""

    def __init__(self, checked: CheckedJob, report: Callable[..., None], interruption: Interruption):
        self.checked, self.report, self.interruption = checked, report, interruption
        self.job, self.step, self.attempt, self.folder = checked.job, checked.step, checked.attempt, checked.folder
        self.ranks = checked.ranks
        self.rows = StageRows(checked, report)
        self.models = StageModels(checked, self.rows)
        self.measuring = Measuring(checked, self.rows, self.models, report)
        self.tracking = Tracking(trackers.asked(self.step.given.get("report_to")), self._about(), report)
        best = checked.settings.best
        self.best = Best(self.folder, best, report, self.ranks.together) if best and self.ranks.takes_part else None
        self.record = Record(checked, self.rows, self.measuring, self.tracking, report)

    def run(self) -> int:
        """Returns the exit code."""
        if self.checked.note:
            self.report("note", text=self.checked.note)
        self.rows.prepare()
        if self.attempt.inputs is None:
            write_json(self.folder / "inputs.json", self.step.inputs)
        self.ranks.wait()
        for note in self.rows.tokenizer.notes:
            self.report("note", text=note)
        self.report("phase", name="model")
        print(f"backend: {self.job.backend} ({self.job.backend_why})", flush=True)
        trainer = self.trainer(self.models.at_the_start())
        self._check_room(trainer)
        self.report("model", **trainer.parameters)
        self.measuring.judging.check(trainer.model)
        before = self.measuring.before(trainer.model)
        self.measuring.earlier.before(trainer.model)
        self.report("before", metrics=before.metrics)
        self.ranks.wait()
        with self.tracking.of(trainer, before.metrics):
            seconds, peak = self._train(trainer)
            if self.interruption.is_set():
                self.report("interrupted", step=trainer.state.global_step)
                self.ranks.wait()
                return INTERRUPTED
            output, after, kept = self._finish(trainer, before)
            self.report("phase", name="manifest")
            self.record.sign(trainer, output, before, after, seconds, peak, kept)
        if self.best:
            self.best.forget()
        self.ranks.wait()
        return 0

    def follow(self) -> int:
        """What the other processes of a stage do beside the first: every step of the training, and nothing that is told
        or kept; where each holds a part of the model, all that it is run for. Returns the exit code.
        """
        self.ranks.wait()  # the rows are prepared
        trainer = self.trainer(self.models.at_the_start())
        if self.ranks.sharded:
            before = self.measuring.before(trainer.model)
            self.measuring.earlier.before(trainer.model)
        self.ranks.wait()  # the figures before are known
        self._train(trainer)
        if self.ranks.sharded and not self.interruption.is_set():
            self._finish(trainer, before)
        self.ranks.wait()  # what was trained is saved
        return INTERRUPTED if self.interruption.is_set() else 0

    def _finish(self, trainer, before: Figures) -> tuple[str, Figures, dict | None]:
        """What was trained, measured and saved: (as what, the figures after, how its step was chosen where that was not the
        last one).
        """
        kept = self.best.settle(trainer) if self.best else None
        self.report("phase", name="saving")
        trainer.finish()
        step = kept["step"] if kept else trainer.state.global_step
        after = self.measuring.after(trainer.model, step, before)
        self.report("phase", name="saving")
        output = save(trainer.model, self.rows.tokenizer.tokenizer, self.folder, self.ranks.together)
        return output, after, kept

    def evaluate_again(self) -> None:
        """Other questions to the same weights: new figures, in a new manifest beside the old weights."""
        self.attempt.check_content()
        self.rows.prepare()
        self.record.sign_again(*self.measuring.again())

    def judge(self) -> None:
        """Measure other attempts, of whatever stages, by the evaluation of this one: the figures of each get a file by
        the attempt's name, beside `before.json` of the policy that this stage, and they, start from.
        """
        self.rows.prepare()
        for folder, figures in self.measuring.others(map(Path, self.job.judged)):
            write_json(self.folder / f"{folder.name}.json", figures.to_json())

    def trainer(self, model):
        """The stage's own, around the model."""
        checked, data = self.checked, self.rows.prepared
        context = Context(
            spec=checked.spec,
            model=model,
            tokenizer=self.rows.tokenizer.tokenizer,
            rows=tokens(data.trained),
            held_out=tokens(data.held_out),
            examples=data.examples(data.trained),
            given=checked.given,
            ranks=self.ranks,
            strategy=self.job.strategy,
            offload=self.job.offload,
            deepspeed=self.job.deepspeed,
            seed=checked.recipe.seed,
            dtype=checked.recipe.model.dtype,
            folder=self.folder,
            parent_adapter=checked.parent_adapter,
            load_reference=self.models.at_the_start,
            report=self.report,
            interruption=self.interruption,
            reward=self.models.reward,
            learning=self.step.inputs.get("adapter_learning", {}),
            evaluate=self._evaluate,
            best=self.best,
            share_prompt=checked.recipe.stages[self.job.stage].share_prompt,
            kept=Reference(self.step.inputs, data.folder, f"{self.job.backend} {checked.machine['device']}"),
        )
        (self.folder / "checkpoints").mkdir(exist_ok=True)
        return importlib.import_module(f"stages.{self.job.stage}").build_trainer(context)

    def _evaluate(self, model, step: int) -> dict[str, float]:
        """The held-out figures in the middle of training: the first process finds them, and all know them."""
        found = self.measuring.in_between(model, step) if self.ranks.takes_part else None
        return self.ranks.told(found) if self.interruption.training else found

    def _about(self) -> About:
        """What the trackers of this stage are told of it."""
        job, recipe, given = self.job, self.checked.recipe, self.step.given
        whole = recipe.resolved()
        of_stage = whole.pop("stages")[job.stage]
        config = whole | of_stage | {"stage": job.stage, "fingerprint": job.fingerprint}
        names = {key: given.get(key) for key in ("run_name", "project")}
        return About(recipe.name, job.stage, self.attempt, config, **names)

    def _check_room(self, trainer) -> None:
        """For the checkpoints of this stage, unless it has some already, and of those that it looks ahead at."""
        recipe, begun = self.checked.recipe, (self.job.stage,) if not self.attempt.checkpoints() else ()
        kept = trainer.args.save_total_limit or 1 if trainer.args.save_strategy != "no" else 0
        full = not isinstance(trainer.model, PeftModel)  # what trains otherwise cannot be reckoned from this model
        alike = [name for name in self.job.ahead if METHODS[recipe.stage(name).adapter["method"]].whole == full]
        best = kept + 1 if self.best else 0
        room.check(
            trainer.model,
            str(trainer.args.optim),
            kept,
            self.folder,
            (*begun, *alike),
            best,
            trainer.context.engine.copies,
        )

    def _train(self, trainer) -> tuple[float, dict[str, int]]:
        """From the last checkpoint, where there is one.

        Returns the seconds in all, those before it was resumed included, and the most memory that was in use, in bytes.
        """
        checkpoints = self.ranks.told(self.attempt.checkpoints())
        self.report("phase", name="training")
        device = self.checked.machine["device"]
        machine.forget_peak(device)
        self.interruption.training = True
        trainer.train(resume_from_checkpoint=str(checkpoints[0][1]) if checkpoints else None)
        self.interruption.training = False
        return trainer.seconds, machine.peak(device)
