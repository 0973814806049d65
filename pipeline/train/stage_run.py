"""One stage of one recipe, from its inputs to its manifest. Runs inside the stage's own process."""

import importlib
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from pipeline.artifact.attempt import Attempt
from pipeline.artifact.digests import Digests, difference, weights_sha256
from pipeline.artifact.manifest import MANIFEST, write_manifest
from pipeline.artifact.writing import write_atomically, write_json
from pipeline.errors import PipelineError, Together
from pipeline.model import backend
from pipeline.model.backend import ASKED, TRANSFORMERS, UNSLOTH
from pipeline.model.base import Base
from pipeline.plan.planner import Planner
from pipeline.plan.step import EVALUATE, UP_TO_DATE, Step
from pipeline.recipe import function
from pipeline.recipe.fields import effective
from pipeline.recipe.reading import load_recipe
from pipeline.recipe.recipe import Recipe
from pipeline.stage import specs
from pipeline.train import room

INTERRUPTED = 130
SAMPLES = "samples.jsonl"
PROMPTS = (
    "prompts_trained.u64"  # what stands for the prompts that a stage was trained on, see pipeline.data.prepare.account
)


@dataclass(frozen=True)
class Job:
    """What the parent asks for; it can be written as JSON."""

    recipe: str
    overrides: list[str]
    runs: str
    stage: str
    folder: str
    fingerprint: str
    mode: str
    policy: str | None = None
    backend: str = TRANSFORMERS
    backend_why: str = ASKED
    goals: tuple[str, ...] = ()  # of the whole run
    goals_policy: str | None = None  # what the first of them starts from
    ahead: tuple[str, ...] = ()  # the stages to be run after this one that it looks ahead at


def before_imports(bitsandbytes: bool) -> None:
    """Set before the heavy imports: no progress bars, no telemetry, no threads that spin."""
    # Threads that spin for long while they wait halve the speed of a busy machine; waking them each time costs an
    # idle one a quarter. A few microseconds of spinning cost neither much.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    if not bitsandbytes:
        sys.modules["bitsandbytes"] = None  # the libraries that would load it, for seconds, go without
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")


class Stage:
    """One stage of one recipe, from its inputs to its manifest."""

    def __init__(self, job: Job, attempt: Attempt, report: Callable[..., None], interrupted: threading.Event):
        self.job, self.attempt, self.report, self.interrupted = job, attempt, report, interrupted
        self.folder = attempt.folder
        self.recipe = load_recipe(job.recipe, job.overrides)
        self.settings = self.recipe.stage(job.stage)
        self.started = time.monotonic()
        self.evaluated = None, None  # the last step at which held-out figures were found, and they

    def check(self) -> None:
        """Hash the inputs afresh, and the parent's files: what is trained is what was planned."""
        planner = Planner(self.recipe, Path(self.job.runs), self.job.policy, Digests())
        self.step: Step = planner.plan([self.job.stage])[-1]
        self.planner, self.spec = planner, specs()[self.job.stage]
        if self.step.fingerprint != self.job.fingerprint:
            raise PipelineError(f"{self.job.stage}: its data or parent changed while it was started.", "Run it again.")
        for parent in (self.step.parent, self.step.reward):
            if parent and parent.attempt:
                parent.attempt.check_content()
        self.parent, self.base = self.step.parent, self.step.base
        self.settings = replace(self.settings, data=self.settings.data.pinned(planner.folder))
        self.machine = self._machine()

    def _machine(self) -> dict:
        """How this attempt is run. An unfinished one goes on as it began, or not at all."""
        file = self.folder / "run.json"
        begun = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
        if begun and self.job.mode != EVALUATE and not self.attempt.checkpoints():
            begun = None  # nothing is trained yet
        threads = begun["threads"] if begun else self.recipe.threads or min(available_cores(), 8)
        os.environ["OMP_NUM_THREADS"] = str(threads)
        before_imports(self.recipe.needs_bitsandbytes())
        backend.start(self.job.backend, Path(self.job.runs))
        import torch

        torch.set_num_threads(threads)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cuda" and (gib := os.environ.get("ALIGN_GPU_GIB")):  # as if the card were smaller
            whole = torch.cuda.get_device_properties(0).total_memory / 2**30
            torch.cuda.set_per_process_memory_fraction(min(float(gib) / whole, 1.0))
        now = {"backend": self.job.backend, "device": device, "processes": 1, "threads": threads}
        if begun is None:
            if file.is_file() and json.loads(file.read_text(encoding="utf-8")) != now:
                (self.folder / "before.json").unlink(missing_ok=True)
            write_json(file, now)
        elif self.job.mode != EVALUATE and begun != now:
            changed = "; ".join(difference(begun, now))
            raise PipelineError(
                f"{self.job.stage}: {self.folder.name} was begun otherwise ({changed}) and cannot go on as exactly.",
                "Continue it where it was begun, or start another attempt with --fresh (FRESH=1).",
            )
        return now

    @cached_property
    def prepared(self):
        """The tokenizer, and what was done to it."""
        return self._tokenizer(self.job.stage, self.parent.folder if self.parent else None, self.base)

    def _tokenizer(self, stage: str, parent: Path | None, base: Base):
        """The parent's, else the base's, else a new one."""
        from pipeline.model import tokenizer

        recipe = self.recipe
        if parent and (parent / "tokenizer_config.json").is_file():
            return tokenizer.Prepared(tokenizer.load(parent, recipe))
        if base.source is not None:
            return tokenizer.prepare(tokenizer.load(base.source, recipe, base.commit), recipe)
        return tokenizer.from_scratch(recipe, stage, recipe.stage(stage).data.pinned(self.planner.folder))

    def prepare(self) -> None:
        """The rows and functions of this stage, and of those that it looks ahead at: all that is wrong comes at once."""
        together, started = Together(), time.monotonic()
        self.report("phase", name="data")
        with together.noting():
            self._load_functions(self.job.stage)
            self.data  # noqa: B018 - its account comes first
        if ahead := self.job.ahead:
            planner = Planner(self.recipe, Path(self.job.runs), self.job.goals_policy, self.planner.digests)
            planned = {step.stage: step for step in planner.plan(self.job.goals)}
            own = planner.overridden(self.job.goals)
            for name in ahead:
                self.report("phase", name=f"rows of {name}")
                with together.noting():
                    self._load_functions(name)
                    self._rows(planned[name], self._tokenizer_ahead(planned[name], planned, own))
            self.report("looked_ahead", stages=ahead, seconds=time.monotonic() - started)
        together.tell()

    def _tokenizer_ahead(self, step: Step, planned: dict[str, Step], overridden: str | None):
        """What a later stage will have: its parent's, which is this stage's own where that is still to be made."""
        if step.stage == self.job.stage:
            return self.prepared.tokenizer
        above = planned.get(self.recipe.parent(step.stage)) if step.stage != overridden else None
        if above and above.state not in (UP_TO_DATE, EVALUATE):
            return self._tokenizer_ahead(above, planned, overridden)
        parent = above.attempt.output if above else step.parent and step.parent.folder
        return self._tokenizer(step.stage, parent, step.base or self.base).tokenizer

    def _load_functions(self, name: str) -> None:
        settings = self.recipe.stage(name)
        named = {
            f"stages.{name}.reward_function": settings.reward_function,
            "evaluation.score_function": settings.evaluation.score_function,
        }
        for key, where in named.items():
            if where:
                function.load(where, key)

    @cached_property
    def data(self):
        """The prepared rows, with their account."""
        from pipeline.data.prepare.account import LISTS

        most = self._positions()
        wanted = effective(self.spec.config, self.step.given).get("max_length")
        prepared = self._rows(self.step, self.prepared.tokenizer)
        for name in LISTS:
            (self.folder / name).unlink(missing_ok=True)
            if (prepared.folder / name).is_file():
                shutil.copyfile(prepared.folder / name, self.folder / name)
        if wanted and most and wanted > most:
            self.report("note", text=f"max_length is {most}: the model has no more positions")
        self.report("account", **prepared.account.summary())
        self._compare_with_earlier_stages(prepared)
        return prepared

    def _rows(self, step: Step, tokenizer):
        """Of this stage, or of one that it looks ahead at: that may stand on a base that is still to be made."""
        from pipeline.train import rows

        base = step.base or self.base
        return rows.prepare(
            self.recipe,
            step.stage,
            self.planner.folder,
            given=step.given or self.recipe.given(step.stage, full=False),
            contents=self.planner.inputs.contents(step.stage),
            tokenizer=tokenizer,
            most=positions(self.recipe, base.source, base.commit),
            runs=Path(self.job.runs),
            threads=self.machine["threads"],
            report=self.report,
        )

    def _compare_with_earlier_stages(self, prepared) -> None:
        """Say where held-out rows ask what an earlier stage was trained on: their figures are then not of new questions."""
        import numpy

        from pipeline.data.prepare.table import numbers

        asked, held_out = numpy.unique(numbers(prepared.trained, "asked")), numbers(prepared.held_out, "asked")
        (self.folder / PROMPTS).write_bytes(asked.tobytes())
        for attempt in self._ancestors():
            if (attempt.folder / PROMPTS).is_file():
                trained = numpy.fromfile(attempt.folder / PROMPTS, dtype=asked.dtype)
                if found := int(numpy.isin(held_out, trained).sum()):
                    text = f"{found} of {len(held_out)} held-out prompts were trained on in {attempt.manifest['stage']}"
                    self.report("note", text=text)
        if self.settings.data.held_out_rows and (found := int(numpy.isin(held_out, asked).sum())):
            text = f"{found} of {len(held_out)} held-out prompts are trained on in this very stage"
            self.report("note", text=text)
        if self.settings.data.held_out and not len(held_out):
            self.report(
                "note",
                text=f"no row is held out, so there will be no figures: the share is taken by prompt, and there are "
                f"{len(asked)} different ones; name a file of its own as data.held_out",
            )

    def _ancestors(self) -> list[Attempt]:
        """The artifacts that the policy was trained in, one after the other, as far as they are there."""
        found, parent = [], self.parent.attempt if self.parent else None
        while parent and parent.finished:
            found.append(parent)
            above = parent.manifest["parents"].get("policy")
            parent = Attempt(Path(above["folder"]).parent) if above else None
        return found

    def _max_length(self) -> int | None:
        from pipeline.train import rows

        return rows.max_length(self.job.stage, self.step.given, self._positions())

    def _positions(self) -> int | None:
        return positions(self.recipe, self.base.source, self.base.commit)

    @cached_property
    def loader(self):
        from pipeline.model.loader import Loader

        return Loader(self.recipe, self.base, self.prepared, self.spec.head, self._fast())

    def _fast(self) -> dict | None:
        """What Unsloth's loader is told, where it is the backend."""
        if self.job.backend != UNSLOTH:
            return None
        checkpointing = self.step.given.get("gradient_checkpointing", self.machine["device"] == "cuda")
        return {
            "max_seq_length": self._max_length() or self._positions() or 2048,
            "use_gradient_checkpointing": "unsloth" if checkpointing else False,
        }

    def load(self):
        """The model as training starts from it."""
        adapter = self.step.inputs["adapter"]
        fields = {key: value for key, value in self.settings.adapter.items() if key != "method"}
        model = self.loader.model(
            self.parent.folder if self.parent and not self.parent.is_model else None,
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

        settings, tokenizer, named = self.settings, self.prepared.tokenizer, self.settings.reward_function
        return Reward(
            tokenizer=tokenizer,
            suffix=tokenizer(Template(tokenizer).suffix, add_special_tokens=False).input_ids,
            use_model=self.step.reward is not None,
            function=function.load(named, f"stages.{self.job.stage}.reward_function") if named else None,
            function_weight=settings.reward_function_weight,
        )

    @cached_property
    def evaluation(self):
        import numpy

        from pipeline.data.prepare.table import numbers, tokens
        from pipeline.evaluate.evaluation import Evaluation
        from pipeline.train.trainer import effective_beta

        held_out = self.data.held_out
        which = range(min(self.settings.evaluation.max_rows, len(held_out)))
        if self.settings.data.mixture:  # of all its parts: those with the smallest numbers
            which = sorted(numpy.argsort(numbers(held_out, "asked"), kind="stable")[: len(which)])
        some = held_out.select(which)
        return Evaluation(
            settings=self.settings.evaluation,
            tokenizer=self.prepared.tokenizer,
            head=self.spec.head,
            kind=self.spec.rows,
            held_out=list(self.data.examples(some)),
            columns=list(tokens(some)),
            trained=self.data.examples(self.data.trained),
            beta=effective_beta(self.spec, self.step.given),
            reward=self.reward,
        )

    def before(self, model):
        """The figures of what training starts from: computed once, before the first step, and kept."""
        from pipeline.evaluate.evaluation import Figures

        file = self.folder / "before.json"
        if not file.is_file():
            self.report("phase", name="evaluation before")
            write_json(file, self.evaluation.run(model).to_json())
        return Figures(**json.loads(file.read_text(encoding="utf-8")))

    def run(self) -> int:
        self.prepare()
        if self.attempt.inputs is None:
            write_json(self.folder / "inputs.json", self.step.inputs)
        for note in self.prepared.notes:
            self.report("note", text=note)
        self.report("phase", name="model")
        print(f"backend: {self.job.backend} ({self.job.backend_why})", flush=True)
        trainer = self._trainer(self.load())
        self._check_room(trainer)
        before = self.before(trainer.model)
        self.report("before", metrics=before.metrics)
        checkpoints = self.attempt.checkpoints()
        self.report("phase", name="training")
        self.interrupted.training = True
        started = time.monotonic()
        self._forget_peak()
        trainer.train(resume_from_checkpoint=str(checkpoints[0][1]) if checkpoints else None)
        trained_seconds = time.monotonic() - started
        peak = self._peak()
        if self.interrupted.is_set():
            self.report("interrupted", step=trainer.state.global_step)
            return INTERRUPTED
        self.interrupted.training = False
        self.report("phase", name="evaluation after")
        step, after = self.evaluated
        if step != trainer.state.global_step:
            after = self.evaluation.run(trainer.model, before)
        self.report("phase", name="saving")
        output = self._save(trainer.model)
        self.report("phase", name="manifest")
        self._finish(trainer, output, before, after, trained_seconds, peak)
        return 0

    def _check_room(self, trainer) -> None:
        """For the checkpoints of this stage, unless it has some already, and of those that it looks ahead at."""
        begun = (self.job.stage,) if not self.attempt.checkpoints() else ()
        kept = trainer.args.save_total_limit or 1 if trainer.args.save_strategy != "no" else 0
        room.check(trainer.model, str(trainer.args.optim), kept, self.folder, (*begun, *self.job.ahead))

    def _forget_peak(self) -> None:
        import torch

        if self.machine["device"] == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def _peak(self) -> dict[str, int]:
        """The most memory in use: the process's from its start, the GPU's while it trained."""
        import resource

        import torch

        peak = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
        if self.machine["device"] == "cuda":
            peak |= {"gpu": torch.cuda.max_memory_allocated(), "gpu_reserved": torch.cuda.max_memory_reserved()}
        return peak

    def _ran_on(self, model) -> dict:
        """The machine and the backend, as the manifest tells of them."""
        import torch

        found = self.machine | {"why": self.job.backend_why, "attention": model.config._attn_implementation}
        if self.machine["device"] == "cuda":
            driver = Path("/proc/driver/nvidia/version")
            found["gpu"] = torch.cuda.get_device_name()
            found["driver"] = driver.read_text().splitlines()[0].strip() if driver.is_file() else None
        return found

    def _trainer(self, model):
        from pipeline.data.prepare.table import tokens
        from pipeline.train.trainer import Context

        context = Context(
            spec=self.spec,
            model=model,
            tokenizer=self.prepared.tokenizer,
            rows=tokens(self.data.trained),
            held_out=tokens(self.data.held_out),
            examples=self.data.examples(self.data.trained),
            given=self.step.given,
            seed=self.recipe.seed,
            dtype=self.recipe.model.dtype,
            folder=self.folder,
            parent_adapter=self.parent.folder if self.parent and not self.parent.is_model else None,
            load_reference=self.load,
            report=self.report,
            interrupted=self.interrupted,
            reward=self.reward,
            evaluate=self._evaluate_at,
        )
        (self.folder / "checkpoints").mkdir(exist_ok=True)
        return importlib.import_module(f"stages.{self.job.stage}").build_trainer(context)

    def _evaluate_at(self, model, step: int) -> dict[str, float]:
        """Held-out figures in the middle of training; the answers go to samples.jsonl."""
        self.report("phase", name="evaluation", step=step)
        figures = self.evaluation.run(model, self.before(model))
        self.evaluated = step, figures
        self.report("evaluated", step=step, metrics=figures.metrics)
        file = self.folder / SAMPLES
        kept = [line for line in _lines(file) if line.get("step", step) < step]  # a resumed run evaluates again
        kept += [
            {"step": step, "prompt": one.prompt, "completion": text}
            for one, text in zip(self.evaluation.held_out, figures.completions, strict=False)
        ]
        _write_lines(file, kept)
        self.report("phase", name="training", step=step)
        return figures.metrics

    def _save(self, model) -> str:
        """adapter/ or model/, with tokenizer and template, put in place whole."""
        from peft import PeftModel

        from pipeline.train.trainer import could_not_save, save_weights

        output = "adapter" if isinstance(model, PeftModel) else "model"
        partial = self.folder / f".{output}"
        try:
            shutil.rmtree(partial, ignore_errors=True)
            save_weights(model, partial)
            self.prepared.tokenizer.save_pretrained(partial)
            shutil.rmtree(self.folder / output, ignore_errors=True)  # of a run that died before its manifest
            os.replace(partial, self.folder / output)
        except Exception as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise could_not_save(self.folder, error) from error
        return output

    def _finish(self, trainer, output: str, before, after, trained_seconds: float, peak: dict[str, int]) -> None:
        weights = weights_sha256(self.folder / output, Digests())
        self._write_manifest(
            {
                "stage": self.job.stage,
                "fingerprint": self.job.fingerprint,
                "inputs": self.step.inputs,
                "data": self._data_summary(),
                "parents": {
                    role: {"stage": one.stage, "folder": str(one.folder), "sha256": one.sha256}
                    for role, one in (("policy", self.parent), ("reward", self.step.reward))
                    if one
                },
                "base": self._base_summary(output, weights),
                "head": self.spec.head,
                "output": output,
                "weights_sha256": weights,
                "run": self._ran_on(trainer.model),
                "steps": trainer.state.global_step,
                "tokens": trainer.tokens,
                "figures": getattr(trainer, "figures", dict)(),
                "seconds": {"training": round(trained_seconds, 2)},
                "peak_bytes": peak,
                "versions": _versions(self.job.backend),
            },
            before,
            after,
        )

    def _write_manifest(self, manifest: dict, before, after) -> None:
        from pipeline.train.trainer import could_not_save

        samples = self._samples(before, after)
        evaluation = {
            "sha256": self.planner.inputs.evaluation_sha256(self.job.stage),
            "settings": self.settings.evaluation.model_dump(),
        }
        manifest |= {
            "metrics": {"before": before.metrics, "after": after.metrics | manifest.get("figures", {})},
            "samples": samples,
            "evaluation": evaluation,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        manifest["seconds"]["in all"] = round(time.monotonic() - self.started, 2)
        try:
            kept = [line for line in _lines(self.folder / SAMPLES) if "step" in line]
            _write_lines(self.folder / SAMPLES, [*kept, *samples])
            write_manifest(self.folder, manifest)
        except OSError as error:
            raise could_not_save(self.folder, error) from error
        self.report("finished", folder=str(self.folder), manifest=str(self.folder / MANIFEST))

    def _samples(self, before, after) -> list[dict]:
        return [
            {"prompt": one.prompt, "before": was, "after": now}
            for one, was, now in zip(self.evaluation.held_out, before.completions, after.completions, strict=False)
        ][: self.settings.evaluation.samples]

    def _data_summary(self) -> dict:
        return {
            "files": self.planner.inputs.files(self.job.stage, self.step.inputs),
            "rows": self.data.account.summary(),
            "prepared": self.data.folder.name,
        }

    def _base_summary(self, output: str, weights: str) -> dict:
        """The base of what comes after: a whole model is its own."""
        if output == "model":
            return {
                "identity": {"sha256": weights},
                "source": str(self.folder.resolve() / output),
                "commit": None,
            }
        return {"identity": self.base.identity, "source": self.base.source, "commit": self.base.commit}

    def evaluate_again(self) -> None:
        """Other questions to the same weights: new figures, in a new manifest beside the old weights."""
        from pipeline.model.loader import load_adapter

        manifest = dict(self.attempt.manifest)
        self.attempt.check_content()
        self.prepare()
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
        self._write_manifest(manifest, before, after)

    def _on_device(self, model):
        return model if self.recipe.model.load_in_4bit else model.to(self.machine["device"])


def _lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def _write_lines(file: Path, lines: list[dict]) -> None:
    write_atomically(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def positions(whole: Recipe, source: str | None, revision: str | None) -> int | None:
    """How many the model has; `source` is None where it is made from the recipe's config."""
    from transformers import AutoConfig

    if source is None:
        return dict(whole.model.config).get("max_position_embeddings")
    config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=whole.model.trust_remote_code)
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _versions(used: str) -> dict[str, str]:
    from importlib.metadata import version

    names = ["torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes", "tokenizers"]
    names += ["unsloth", "unsloth_zoo"] if used == UNSLOTH else []
    return {"python": sys.version.split()[0]} | {name: version(name) for name in names}
