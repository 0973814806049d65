"""One stage with both backends, each in processes of its own and in turn, on the same rows from the same adapter."""

import itertools
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, median

from pipeline.artifact.manifest import MANIFEST
from pipeline.artifact.writing import write_json
from pipeline.console.display import Display
from pipeline.errors import MachineError, PipelineError
from pipeline.model.backend import TRANSFORMERS, UNSLOTH
from pipeline.plan.planner import Planner
from pipeline.plan.step import RUN, Step
from pipeline.recipe.reading import load_recipe
from pipeline.recipe.recipe import Recipe
from pipeline.run.process import give, job_of, start_worker
from pipeline.run.run import Run
from pipeline.stage import specs

BACKENDS = (TRANSFORMERS, UNSLOTH)
# Of the stage, beside the steps that are asked for: every step is logged, and nothing else is done in between.
OVERRIDES = """
    train.logging_steps=1 train.logging_strategy=steps train.save_strategy="no" train.eval_strategy="no"
    train.report_to=none evaluation.max_new_tokens=1 evaluation.samples=0
""".split()
# How far the losses of one step may lie apart by rounding alone, as the weights drift apart with it.
TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-2, "float16": 1e-2}
RESULT, PICTURE = "compare.json", "compare.png"


@dataclass(frozen=True)
class Trial:
    """One training by one backend. Times in seconds, one entry a step where there are many."""

    backend: str
    starts: float  # from the process's start to the first step's
    step_seconds: list[float]
    step_tokens: list[int]
    losses: list[float]
    gradient_norms: list[float]
    in_all: float
    host_bytes: int
    gpu_bytes: int | None
    held_out: dict[str, float]
    run: dict
    versions: dict[str, str]

    @property
    def warm_up(self) -> int:
        """Steps left out of the speed: the first compile and fill caches."""
        return min(max(2, len(self.step_seconds) // 10), len(self.step_seconds) - 1)

    @property
    def speeds(self) -> list[float]:
        """Tokens per second of each step after the warm-up."""
        pairs = zip(self.step_tokens, self.step_seconds, strict=True)
        return [tokens / max(seconds, 1e-9) for tokens, seconds in list(pairs)[self.warm_up :]]

    @property
    def compiling(self) -> float:
        """What the first step took longer than the later ones."""
        return max(self.step_seconds[0] - median(self.step_seconds[self.warm_up :]), 0.0)


class Comparison:
    """Both backends on one stage of a recipe, outside of its artifacts; what the stage stands on is built first."""

    def __init__(
        self, path: Path, overrides: Sequence[str], runs: Path, stage: str, steps: int, repeats: int, display: Display
    ):
        self.path, self.runs, self.stage, self.steps, self.repeats = path, runs, stage, steps, repeats
        self.display, self.given = display, list(overrides)
        alike = ("share_prompt=false",) if getattr(specs().get(stage), "shares_prompt", False) else ()  # Unsloth cannot
        own = (f"train.max_steps={steps}", *alike, *OVERRIDES)
        common = [*overrides, *(f"stages.{stage}.{pair}" for pair in own), "launch={}"]  # Unsloth has one process
        self.recipes = {
            name: load_recipe(path, [*common, f"stages.{stage}.use_unsloth={str(name == UNSLOTH).lower()}"])
            for name in BACKENDS
        }
        self.recipe = self.recipes[UNSLOTH]
        self.recipe.stage(stage)  # that there is one
        self.folder = runs / self.recipe.name / "compare" / f"{stage}-{time.strftime('%Y%m%d-%H%M%S')}"

    def run(self) -> dict:
        """The figures of both, also written to RESULT. Raises PipelineError where Unsloth cannot serve the stage."""
        if self._plan(UNSLOTH)[-1].known_backend.name != UNSLOTH:  # what it cannot serve has raised by now
            raise PipelineError(f"compare: {self.stage} would not be trained with Unsloth.", "Compare another stage.")
        above = [step.stage for step in self._plan(TRANSFORMERS)[:-1]]
        if above:
            given = load_recipe(self.path, self.given)
            if Run(given, self.runs, above, fresh=False, policy=None, display=self.display).execute():
                raise MachineError(f"compare: {' and '.join(above)} did not finish.", "The same command continues.")
        trials: dict[str, list[Trial]] = {name: [] for name in BACKENDS}
        for repeat in range(self.repeats):
            for name in BACKENDS:
                trial = self._trial(name, self._plan(name)[-1], repeat)
                trials[name].append(trial)
                self.display.say(
                    f"  {repeat + 1}/{self.repeats}  {name:<12}  {median(trial.speeds):,.0f} tokens/s after warm-up, "
                    f"last loss {trial.losses[-1]:.4f}"
                )
        result = figures(trials, self.recipe, self.stage)
        write_json(self.folder / RESULT, result)
        return result

    def _plan(self, name: str) -> list[Step]:
        """As if the stage had never been run."""
        planner = Planner(self.recipes[name], self.runs)
        steps = planner.plan([self.stage], fresh=[self.stage])
        return planner.plan([self.stage], fresh=[self.stage]) if planner.resolve_commits(steps) else steps

    def _trial(self, name: str, step: Step, repeat: int) -> Trial:
        folder = self.folder / f"{name}-{repeat + 1}"
        job = job_of(step, self.recipes[name], self.runs, folder)
        job = replace(job, mode=RUN, backend=name, backend_why="compared")
        started = time.time()
        process = start_worker()
        give(process, job)
        events = [json.loads(line) for line in process.stdout or ()]
        if code := process.wait():
            error = next((event for event in events if event["kind"] == "error"), None)
            if error:
                raise (PipelineError if code == 2 else MachineError)(f"{name}: {error['what']}", error["fix"])
            raise MachineError(f"{name}: its process ended with code {code}.", f"See {folder / 'stage.log'}.")
        return self._read(name, folder, events, started, time.time())

    def _read(self, name: str, folder: Path, events: list[dict], started: float, ended: float) -> Trial:
        begun = next(event for event in events if event["kind"] == "train")
        steps = [event for event in events if event["kind"] == "step"]
        times = [begun["at"], *(event["at"] for event in steps)]
        tokens = [0, *(event["tokens"] for event in steps)]
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        logged = [line for line in lines if "loss" in line]
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return Trial(
            backend=name,
            starts=begun["at"] - started,
            step_seconds=[after - before for before, after in itertools.pairwise(times)],
            step_tokens=[after - before for before, after in itertools.pairwise(tokens)],
            losses=[line["loss"] for line in logged],
            gradient_norms=[line["grad_norm"] for line in logged],
            in_all=ended - started,
            host_bytes=manifest["peak_bytes"]["host"],
            gpu_bytes=manifest["peak_bytes"].get("gpu"),
            held_out=manifest["metrics"]["after"],
            run=manifest["run"],
            versions=manifest["versions"],
        )


def figures(trials: dict[str, list[Trial]], of: Recipe, stage: str) -> dict:
    """What is told and drawn of both backends, as JSON values."""
    plain, fast = (trials[name] for name in BACKENDS)
    pairs = list(zip(plain, fast, strict=True))
    tolerance = TOLERANCE[of.model.dtype]
    apart = [abs(a - b) for a, b in zip(plain[0].losses, fast[0].losses, strict=True)]
    norms = [abs(a - b) for a, b in zip(plain[0].gradient_norms, fast[0].gradient_norms, strict=True)]
    beyond = next((step for step, difference in enumerate(apart, 1) if difference > tolerance), None)
    result = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "stage": stage,
        "recipe": of.name,
        "steps": len(apart),
        "repeats": len(pairs),
        "on_gpu": fast[0].run["device"] == "cuda",
        "backends": {name: _of_one(trials[name]) for name in BACKENDS},
        "speed_ratios": [median(b.speeds) / median(a.speeds) for a, b in pairs],
        "memory_ratios": [_memory(b) / _memory(a) for a, b in pairs],
        "loss": {
            "tolerance": tolerance,
            "largest_difference": max(apart),
            "mean_difference": mean(apart),
            "largest_gradient_norm_difference": max(norms),
            "first_step_beyond": beyond,
        },
        "what_ran": _what_ran(of, stage, fast[0], plain[0]),
        "load_after": os.getloadavg(),
        "trials": {name: [asdict(trial) for trial in trials[name]] for name in BACKENDS},
    }
    return result | {"verdict": verdict(result)}


def _of_one(trials: Sequence[Trial]) -> dict:
    speeds = [speed for trial in trials for speed in trial.speeds]
    return {
        "tokens_per_second": {"median": median(speeds), "min": min(speeds), "max": max(speeds)},
        "seconds_to_first_step": median(trial.starts + trial.step_seconds[0] for trial in trials),
        "seconds_compiling": median(trial.compiling for trial in trials),
        "seconds_in_all": median(trial.in_all for trial in trials),
        "host_bytes": max(trial.host_bytes for trial in trials),
        "gpu_bytes": max((trial.gpu_bytes for trial in trials if trial.gpu_bytes), default=None),
        "held_out": trials[0].held_out,
        "warm_up_steps": trials[0].warm_up,
    }


def _memory(trial: Trial) -> float:
    return trial.gpu_bytes or trial.host_bytes


def _what_ran(of: Recipe, stage: str, fast: Trial, plain: Trial) -> dict:
    settings = of.stage(stage)
    train = settings.train
    return {
        "device": fast.run.get("gpu", fast.run["device"]),
        "driver": fast.run.get("driver"),
        "threads": fast.run["threads"],
        "attention": {TRANSFORMERS: plain.run.get("attention"), UNSLOTH: fast.run.get("attention")},
        "dtype": of.model.dtype,
        "quantization": {4: "nf4", 8: "int8", None: "none"}[of.model.bits],
        "base": of.model.id or "from the recipe's config",
        "max_length": train.get("max_length"),
        "batch": f"{train.get('per_device_train_batch_size', 8)} x {train.get('gradient_accumulation_steps', 1)}",
        "rank": settings.adapter.get("r"),
        "versions": fast.versions,
    }


def verdict(result: dict) -> str:
    """The answer in one sentence."""
    saved = 1 - median(result["memory_ratios"])
    kind = "GPU" if result["on_gpu"] else "host"
    memory = f"{abs(saved):.0%} {'less' if saved > 0 else 'more'} {kind} memory"
    if abs(saved) < 0.01:
        memory = f"as much {kind} memory"
    loss = result["loss"]
    same = f"same loss to {loss['largest_difference']:.0e}" if loss["largest_difference"] else "same loss to the bit"
    if loss["first_step_beyond"]:
        same = (
            f"ANOTHER LOSS from step {loss['first_step_beyond']} on "
            f"(up to {loss['largest_difference']:.1e} apart, {loss['tolerance']:.0e} is what rounding explains)"
        )
    said = f"Unsloth: {median(result['speed_ratios']):.2f}x tokens per second, {memory}, {same}"
    return said if result["on_gpu"] else f"{said}; on a CPU, where speed says nothing about a GPU"
