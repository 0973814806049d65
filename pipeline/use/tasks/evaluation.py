"""The story of an evaluation: what is kept is found, what is missing is asked, and both sides are held against each other."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy
import torch
from lm_eval.evaluator import simple_evaluate

from pipeline.artifact import benchmarks
from pipeline.artifact.benchmarks import AFTER, BEFORE
from pipeline.errors import MachineError, PipelineError
from pipeline.evaluate.intervals import difference
from pipeline.evaluate.shares import Z
from pipeline.use.loaded import Policy, load
from pipeline.use.subject import Subject
from pipeline.use.tasks.asked import Asked
from pipeline.use.tasks.harness import Harness, Task
from pipeline.use.tasks.start import identity
from pipeline.use.tasks.wanted import Wanted

PAIRED = "paired bootstrap over the questions"
APART = "from both standard errors, as if of different questions"


@dataclass
class Evaluation:
    """`sides` has the policy after the stage, and the one before where there is one; `place` keeps what is found."""

    wanted: Wanted
    sides: Mapping[str, Subject]
    place: Path
    runs: Path
    tell: Callable[[str], None]

    def run(self) -> list[Path]:
        """Ask what is not kept. Returns the files of the results, a task each, in the order of the tasks."""
        self.tell("reading the tasks")
        harness = Harness(self.wanted)
        names = harness.names()
        asked = {name: harness.task(name).asked for name in names}
        policies = {when: identity(subject) for when, subject in self.sides.items()}
        known = {
            name: {when: self._found(said, when, policy) for when, policy in policies.items()}
            for name, said in asked.items()
        }
        # What is after comes first: from then on every answer has a file to be kept in, whatever becomes of the rest.
        order = [when for when in (AFTER, BEFORE) if when in self.sides]
        missing = {when: [name for name in names if known[name][when] is None] for when in order}
        for when, subject in self.sides.items():
            if kept := [name for name in names if name not in missing[when]]:
                self.tell(f"{subject.name}, {when}: {', '.join(kept)} found, not asked again")
        asking = [when for when in order if missing[when]]
        for when, policy in zip(asking, load([self.sides[when] for when in asking]), strict=True):
            _check_template(policy, self.wanted)
            for name in missing[when]:
                known[name][when] = self._ask(harness.task(name), policy, when, policies[when])
                self._keep(asked[name], known[name])
        return [self._keep(asked[name], known[name]) for name in names]

    def _found(self, asked: dict, when: str, policy: dict) -> dict | None:
        kept = benchmarks.found(self.runs, asked, policy)
        return kept and kept | {"name": self.sides[when].name}  # the same policy may have been named otherwise

    def _keep(self, asked: dict, sides: Mapping[str, dict | None]) -> Path:
        file = benchmarks.file_of(self.place, asked)
        kept = benchmarks.read(file) if file.is_file() else {}
        before, after = sides.get(BEFORE) or kept.get(BEFORE), sides[AFTER]  # this time only what is after may be asked
        said = {BEFORE: before, AFTER: after, "differences": differences(before, after) if before else {}}
        return file if kept and {key: kept[key] for key in said} == said else benchmarks.keep(self.place, asked, said)

    def _ask(self, task: Task, policy: Policy, when: str, known_as: dict) -> dict:
        questions = sum(len(leaf.eval_docs) for leaf in task.leaves.values())
        if limit := self.wanted.limit:
            questions = sum(min(limit, len(leaf.eval_docs)) for leaf in task.leaves.values())
        self.tell(f"{policy.subject.name}, {when}: {task.name}, {questions:,} questions")
        began = time.monotonic()
        with policy.acting():
            asked = Asked(policy, self.wanted.batch_size)
            found = _evaluated(task, asked, self.wanted)
        if asked.cut:
            self.tell(
                f"  {asked.cut:,} prompts were longer than the model's {asked.max_length} tokens: their beginning was cut"
            )
        return {
            "policy": known_as,
            "name": policy.subject.name,
            **_results(found),
            "cut": asked.cut,
            "batch_size": self.wanted.batch_size,
            "device": policy.model.device.type,
            "seconds": round(time.monotonic() - began, 2),
            "versions": {name: version(name) for name in ("lm-eval", "torch", "transformers", "peft", "datasets")},
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }


def _check_template(policy: Policy, wanted: Wanted) -> None:
    if wanted.chat_template and not policy.tokenizer.chat_template:
        raise PipelineError(
            f"--chat-template: {policy.subject.name} has no chat template.",
            "Leave it out, or train with model.template.",
        )


def _evaluated(task: Task, asked: Asked, wanted: Wanted) -> dict:
    try:
        return simple_evaluate(
            model=asked,
            tasks=list(task.built),
            num_fewshot=wanted.few_shot,
            limit=wanted.limit,
            apply_chat_template=wanted.chat_template,
            fewshot_as_multiturn=wanted.chat_template,
            log_samples=True,
            task_manager=task.manager,
        )
    except torch.OutOfMemoryError:
        raise MachineError(
            f"{task.name}: memory ran out at {wanted.batch_size} questions at once.", "Lower --batch-size (BATCH=)."
        ) from None
    except AssertionError as error:
        if "max tokens to generate" in str(error):
            raise PipelineError(
                f"{task.name}: an answer may have more tokens than the model has for prompt and answer together, "
                f"{asked.max_length}.",
                "Set generation_kwargs.max_gen_toks in its YAML; lm-eval's default is 256.",
            ) from error
        raise


def _results(found: Mapping) -> dict:
    """lm-eval's figures as they are kept: `results` of each task or group, and `each` question's number where it is a mean."""
    results, each = {}, {}
    for name, said in (found["results"] | found.get("groups", {})).items():
        better = found["higher_is_better"].get(name, {})
        figures = {
            key: {
                "value": _number(value),  # None: lm-eval found no number, as of no answer at all
                "stderr": _number(said.get(key.replace(",", "_stderr,", 1))),
                "higher_is_better": better.get(key.partition(",")[0]),
            }
            for key, value in said.items()
            if "," in key and "_stderr," not in key and isinstance(value, int | float | numpy.number)
        }
        if not figures:  # a group that only collects
            continue
        counted = found["n-samples"].get(name, {})
        results[name] = {
            "figures": figures,
            "n": counted.get("effective") or said.get("sample_len") or said.get("sample_count"),
            "of": counted.get("original"),
            "few_shot": found["n-shot"].get(name),
        }
        each[name] = _each(found["samples"].get(name, ()), figures)
    return {"results": results, "each": each}


def _each(samples: list[dict], figures: Mapping[str, dict]) -> dict[str, list[float]]:
    rows = {}
    for key, said in figures.items():
        if said["value"] is None:
            continue
        metric, _, filtered = key.partition(",")
        numbers = [_number(one.get(metric)) for one in samples if one["filter"] == filtered]
        if numbers and None not in numbers and abs(float(numpy.mean(numbers)) - said["value"]) < 1e-9:
            rows[key] = numbers
    return rows


def _number(value: object) -> float | None:
    known = isinstance(value, int | float | numpy.number | numpy.bool_) and math.isfinite(value)
    return float(value) if known else None


def differences(before: Mapping, after: Mapping) -> dict[str, dict]:
    """Of each figure that both have: after - before, where 95% of it lies, and how that was found."""
    found: dict[str, dict] = {}
    for name, now in after["results"].items():
        was = before["results"].get(name, {"figures": {}})
        for key in now["figures"].keys() & was["figures"].keys():
            if now["figures"][key]["value"] is None or was["figures"][key]["value"] is None:
                continue
            rows = [side["each"].get(name, {}).get(key) for side in (before, after)]
            if all(rows) and len(rows[0]) == len(rows[1]):
                told = difference(*rows).to_json() | {"how": PAIRED}
            else:
                told = _apart(was["figures"][key], now["figures"][key])
            found.setdefault(name, {})[key] = told
    return found


def _apart(was: Mapping, now: Mapping) -> dict:
    gained = now["value"] - was["value"]
    if was["stderr"] is None or now["stderr"] is None:
        return {"value": gained, "low": None, "high": None, "how": "lm-eval gives no standard error"}
    spread = Z * math.hypot(was["stderr"], now["stderr"])
    return {"value": gained, "low": gained - spread, "high": gained + spread, "how": APART}
