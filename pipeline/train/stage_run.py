"""One stage of one recipe, from its inputs to its manifest. Runs inside the stage's own process.

`StageRun.run` is the story: look at the rows, load, measure, train, measure, save, sign.
"""

import importlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from pipeline.artifact.attempt import Attempt
from pipeline.artifact.digests import Digests
from pipeline.artifact.writing import write_json
from pipeline.errors import PipelineError
from pipeline.model.backend import UNSLOTH
from pipeline.model.base import Base
from pipeline.plan.planner import Planner
from pipeline.plan.step import Step
from pipeline.recipe import function
from pipeline.recipe.reading import load_recipe
from pipeline.stage import specs
from pipeline.train import machine, room
from pipeline.train.job import INTERRUPTED, Job


class StageRun:
    """One run of a stage. What it works with is made when it is first asked for."""

    def __init__(self, job: Job, attempt: Attempt, report: Callable[..., None], interrupted: threading.Event):
        self.job, self.attempt, self.report, self.interrupted = job, attempt, report, interrupted
        self.folder, self.spec = attempt.folder, specs()[job.stage]
        self.recipe = load_recipe(job.recipe, job.overrides)
        self.started = time.monotonic()
        self.evaluated = None, None  # the last step at which held-out figures were found, and they

    # -- the story -----------------------------------------------------------------------------------

    def check(self) -> None:
        """Hash the inputs afresh, and the parent's files: what is trained is what was planned."""
        self.planner = Planner(self.recipe, Path(self.job.runs), self.job.policy, Digests())
        self.step: Step = self.planner.plan([self.job.stage])[-1]
        if self.step.fingerprint != self.job.fingerprint:
            raise PipelineError(f"{self.job.stage}: its data or parent changed while it was started.", "Run it again.")
        for parent in (self.step.parent, self.step.reward):
            if parent and parent.attempt:
                parent.attempt.check_content()
        self.parent, self.base = self.step.parent, self.step.base
        settings = self.recipe.stage(self.job.stage)
        self.settings = replace(settings, data=settings.data.pinned(self.planner.folder))
        self.machine = machine.agreed(self.job, self.recipe, self.attempt)

    def run(self) -> int:
        """Returns the exit code."""
        from pipeline.train.saving import save

        self.rows.prepare()
        if self.attempt.inputs is None:
            write_json(self.folder / "inputs.json", self.step.inputs)
        for note in self.rows.tokenizer.notes:
            self.report("note", text=note)
        self.report("phase", name="model")
        print(f"backend: {self.job.backend} ({self.job.backend_why})", flush=True)
        trainer = self.trainer(self.load())
        self._check_room(trainer)
        before = self.before(trainer.model)
        self.report("before", metrics=before.metrics)
        seconds, peak = self._train(trainer)
        if self.interrupted.is_set():
            self.report("interrupted", step=trainer.state.global_step)
            return INTERRUPTED
        after = self._after(trainer, before)
        self.report("phase", name="saving")
        output = save(trainer.model, self.tokenizer, self.folder)
        self.report("phase", name="manifest")
        self.record.finish(trainer, output, before, after, seconds, peak)
        return 0

    def evaluate_again(self) -> None:
        """Other questions to the same weights: new figures, in a new manifest beside the old weights."""
        from pipeline.model.loader import load_adapter

        manifest = dict(self.attempt.manifest)
        self.attempt.check_content()
        self.rows.prepare()
        self.report("phase", name="model")
        model = self._on_device(self.load())
        self.report("phase", name="evaluation before")
        before = self.evaluation.run(model)
        if manifest["output"] == "model":
            trained = replace(self.loader, base=Base(None, str(self.attempt.output)))
            model = self._on_device(trained.model(None, None))
        else:
            load_adapter(model, self.attempt.output)
        self.report("phase", name="evaluation after")
        after = self.evaluation.run(model, before)
        write_json(self.folder / "before.json", before.to_json())
        manifest.pop("files")
        self.record.write(manifest, before, after)

    # -- what it works with --------------------------------------------------------------------------

    @cached_property
    def rows(self):
        from pipeline.train.rows import StageRows

        threads = self.machine["threads"]
        return StageRows(self.job, self.recipe, self.planner, self.step, self.folder, threads, self.report)

    @property
    def tokenizer(self):
        return self.rows.tokenizer.tokenizer

    @cached_property
    def loader(self):
        from pipeline.model.loader import Loader

        recipe = self.recipe
        return Loader(recipe.model, recipe.seed, self.base, self.rows.tokenizer, self.spec.head, self._fast())

    def load(self):
        """The model as training starts from it."""
        adapter = self.step.inputs["adapter"]
        fields = {key: value for key, value in self.settings.adapter.items() if key != "method"}
        model = self.loader.model(
            self._parent_adapter,
            fields if isinstance(adapter, dict) else self.step.inputs.get("adapter_changes"),
        )
        if self.spec.rewarded_by:
            from pipeline.ppo.roles import add_roles

            model = add_roles(model, self.step.reward.folder if self.step.reward else None)
        return model

    @cached_property
    def reward(self):
        """What scores a response, where the stage trains on a reward."""
        if not self.spec.rewarded_by:
            return None
        from pipeline.data.tokens.template import Template
        from pipeline.ppo.rewards import Reward

        named = self.settings.reward_function
        return Reward(
            tokenizer=self.tokenizer,
            suffix=self.tokenizer(Template(self.tokenizer).suffix, add_special_tokens=False).input_ids,
            use_model=self.step.reward is not None,
            function=function.load(named, f"stages.{self.job.stage}.reward_function") if named else None,
            function_weight=self.settings.reward_function_weight,
        )

    @cached_property
    def evaluation(self):
        import numpy

        from pipeline.data.prepare.table import numbers, tokens
        from pipeline.evaluate.evaluation import Evaluation
        from pipeline.train.trainer import effective_beta

        data = self.rows.prepared
        which = range(min(self.settings.evaluation.max_rows, len(data.held_out)))
        if self.settings.data.mixture:  # of all its parts: those with the smallest numbers
            which = sorted(numpy.argsort(numbers(data.held_out, "asked"), kind="stable")[: len(which)])
        some = data.held_out.select(which)
        return Evaluation(
            settings=self.settings.evaluation,
            tokenizer=self.tokenizer,
            head=self.spec.head,
            kind=self.spec.rows,
            held_out=list(data.examples(some)),
            columns=list(tokens(some)),
            trained=data.examples(data.trained),
            beta=effective_beta(self.spec, self.step.given),
            reward=self.reward,
        )

    @cached_property
    def record(self):
        from pipeline.train.record import Record

        return Record(self)

    def trainer(self, model):
        """The stage's own, around the model."""
        from pipeline.data.prepare.table import tokens
        from pipeline.train.reference import Reference
        from pipeline.train.trainer import Context

        data = self.rows.prepared
        context = Context(
            spec=self.spec,
            model=model,
            tokenizer=self.tokenizer,
            rows=tokens(data.trained),
            held_out=tokens(data.held_out),
            examples=data.examples(data.trained),
            given=self.step.given,
            seed=self.recipe.seed,
            dtype=self.recipe.model.dtype,
            folder=self.folder,
            parent_adapter=self._parent_adapter,
            load_reference=self.load,
            report=self.report,
            interrupted=self.interrupted,
            reward=self.reward,
            evaluate=self._evaluate_at,
            kept=Reference(self.step.inputs, data.folder, f"{self.job.backend} {self.machine['device']}"),
        )
        (self.folder / "checkpoints").mkdir(exist_ok=True)
        return importlib.import_module(f"stages.{self.job.stage}").build_trainer(context)

    # -- its parts -----------------------------------------------------------------------------------

    def before(self, model):
        """The figures of what training starts from: computed once, before the first step, and kept."""
        from pipeline.evaluate.figures import Figures

        file = self.folder / "before.json"
        if not file.is_file():
            self.report("phase", name="evaluation before")
            write_json(file, self.evaluation.run(model).to_json())
        return Figures(**json.loads(file.read_text(encoding="utf-8")))

    def _train(self, trainer) -> tuple[float, dict[str, int]]:
        """(seconds in all, those before it was resumed included; the most memory in use)"""
        checkpoints = self.attempt.checkpoints()
        self.report("phase", name="training")
        self.interrupted.training = True
        machine.forget_peak(self.machine["device"])
        trainer.train(resume_from_checkpoint=str(checkpoints[0][1]) if checkpoints else None)
        return trainer.seconds, machine.peak(self.machine["device"])

    def _evaluate_at(self, model, step: int) -> dict[str, float]:
        """Held-out figures in the middle of training."""
        self.report("phase", name="evaluation", step=step)
        figures = self.evaluation.run(model, self.before(model))
        self.evaluated = step, figures
        self.report("evaluated", step=step, metrics=figures.metrics)
        self.record.keep_answers(step, figures.completions)
        self.report("phase", name="training", step=step)
        return figures.metrics

    def _after(self, trainer, before):
        """The figures of what was trained; those of its last step, where that was evaluated."""
        self.interrupted.training = False
        self.report("phase", name="evaluation after")
        step, figures = self.evaluated
        return figures if step == trainer.state.global_step else self.evaluation.run(trainer.model, before)

    def _check_room(self, trainer) -> None:
        """For the checkpoints of this stage, unless it has some already, and of those that it looks ahead at."""
        begun = (self.job.stage,) if not self.attempt.checkpoints() else ()
        kept = trainer.args.save_total_limit or 1 if trainer.args.save_strategy != "no" else 0
        full = self.step.inputs["adapter"] == "all weights"  # what trains otherwise cannot be reckoned from this model
        alike = [name for name in self.job.ahead if (self.recipe.stage(name).adapter["method"] == "full") == full]
        room.check(trainer.model, str(trainer.args.optim), kept, self.folder, (*begun, *alike))

    @property
    def _parent_adapter(self) -> Path | None:
        return self.parent.folder if self.parent and not self.parent.is_model else None

    def _fast(self) -> dict | None:
        """What Unsloth's loader is told, where it is the backend."""
        if self.job.backend != UNSLOTH:
            return None
        checkpointing = self.step.given.get("gradient_checkpointing", self.machine["device"] == "cuda")
        return {
            "max_seq_length": self.rows.max_length() or self.rows.positions() or 2048,
            "use_gradient_checkpointing": "unsloth" if checkpointing else False,
        }

    def _on_device(self, model):
        return model if self.recipe.model.load_in_4bit else model.to(self.machine["device"])
