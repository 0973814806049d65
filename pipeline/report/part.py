"""All that the page shows of one stage."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath

from pipeline.artifact import command
from pipeline.artifact.attempt import Attempt, all_attempts
from pipeline.artifact.digests import difference
from pipeline.console.data_report import OF_A_STAGE
from pipeline.console.figures import BASELINES, are_few, asks_for_none, kept, number, verdicts
from pipeline.plan.step import EVALUATE, RUNNING, UP_TO_DATE, Step
from pipeline.report import benchmarks, change, curves, settings, verdict
from pipeline.report.answers import Answers, answers
from pipeline.report.kept import Kept
from pipeline.stage import objective
from pipeline.wording import duration

ATTEMPTS_SHOWN = 40  # of a stage; earlier ones are counted
_CHANGES_SHOWN = 3


@dataclass(frozen=True)
class Row:
    """An attempt in the table of a stage's attempts."""

    name: str
    shown: bool  # whether it is the one that the page is about
    state: str
    changes: list[str]  # what is other than in the one that is shown
    left_out: int  # changes beyond these
    figure: change.Change | None
    seconds: str


class Part:
    """A stage by its step in the plan. `steps` are those in all of a stage that runs now, where they are known."""

    def __init__(self, step: Step, folder, steps: int | None = None):
        self.step, self.stage, self.folder, self.steps = step, step.stage, folder, steps
        there = step.attempt is not None and step.attempt.begun
        self.kept = Kept(Attempt(step.attempt.folder)) if there else None  # anew: what was read of it may have changed

    @property
    def objective(self) -> str:
        return objective(self.stage)

    @property
    def running(self) -> bool:
        return self.step.state == RUNNING

    @property
    def current(self) -> bool:
        """Whether what is shown is what the recipe asks for, trained to its end."""
        return self.step.state in (UP_TO_DATE, EVALUATE)

    @property
    def manifest(self) -> dict | None:
        return self.kept.manifest if self.kept else None

    @property
    def ever(self) -> bool:
        """Whether there is anything to show of it."""
        return bool(self.kept or self.attempts)

    @cached_property
    def changes(self) -> list[change.Change]:
        if not self.kept:
            return []
        known = (self.manifest or {}).get("differences")
        return list(change.changes(self.kept.before, self.kept.after, known))

    @cached_property
    def forgotten(self) -> list[change.Change]:
        """What became of that which earlier stages taught."""
        return list(change.of_earlier(self.manifest or {}))

    @property
    def judged(self) -> str:
        """What the judge said, in a sentence."""
        judge = (self.manifest or {}).get("judge")
        return f"{verdict.sentence(verdicts(judge))}." if judge else ""

    @property
    def confusion(self) -> dict | None:
        """How often each label was said for each, before and after."""
        return (self.manifest or {}).get("confusion")

    @property
    def first(self) -> change.Change | None:
        return change.first(self.changes) if self.manifest else None

    @property
    def baselines(self) -> Iterator[tuple[str, str]]:
        metrics = self.kept.before["metrics"] | self.kept.after["metrics"] if self.kept else {}
        yield from (
            (words, number(metrics[name])) for name, words in BASELINES.items() if metrics.get(name) is not None
        )

    @property
    def why_no_figures(self) -> str:
        """Of a finished stage that has none."""
        none = self.manifest and asks_for_none(self.manifest)
        return "evaluation.max_rows is 0: none of the held-out rows was measured" if none else verdict.NONE_HELD_OUT

    @cached_property
    def verdict(self) -> verdict.Verdict:
        if self.manifest and self.current:
            moved = [one for result in self.benchmarks[0] for one in result.moved]
            every, metrics = [*self.changes, *self.forgotten, *moved], self.kept.after["metrics"]
            found = verdict.of_stage(every, metrics, self.why_no_figures)
            return verdict.falling_short(found, self.step.falls_short) if self.step.falls_short else found
        if self.kept and self.kept.complaint:
            return verdict.Verdict(verdict.OPEN, self.kept.complaint)
        done = self.kept.log.last_step if self.kept else 0
        at = f" It is at step {done:,}" + (f" of {self.steps:,}." if self.steps else ".") if done else ""
        return verdict.Verdict(
            verdict.RUNS if self.running else verdict.WAITING, f"{verdict.sentence(self.step.why)}.{at}"
        )

    @property
    def few(self) -> bool:
        return bool(self.manifest) and are_few(self.manifest)

    # What it saw.

    @property
    def account(self) -> dict | None:
        rows = (self.manifest or {}).get("data", {}).get("rows")
        return rows if rows and isinstance(rows.get("trained"), int) else None

    @property
    def account_notes(self) -> list[str]:
        rows = self.account or {}
        noted = [words.format(**rows).strip() for key, words, _ in OF_A_STAGE if rows.get(key)]
        if rows.get("truncated"):
            noted.append(f"{rows['truncated']:,} cut to max_length ({rows.get('tokens_cut', 0):,} tokens lost)")
        return noted

    @property
    def files(self) -> list[str]:
        return [PurePath(name).name for name in (self.manifest or {}).get("data", {}).get("files", ())]

    # How it went.

    @cached_property
    def charts(self) -> list[curves.Chart]:
        if not self.kept:
            return []
        ends = self.kept.before["metrics"], self.kept.after["metrics"]
        return list(curves.charts(self.kept.log.lines, *ends))

    @cached_property
    def more_charts(self) -> list[curves.Chart]:
        return list(curves.more(self.kept.log.lines)) if self.kept else []

    @cached_property
    def answers(self) -> Answers:
        return answers(self.kept.samples, self.kept.before, self.kept.after) if self.kept else Answers([], 0, 0, None)

    @cached_property
    def benchmarks(self) -> tuple[list[benchmarks.Result], list[str]]:
        """(results that `align evaluate` kept with it, what is wrong with others)."""
        return benchmarks.of(self.kept.folder) if self.kept else ([], [])

    # What it cost, and how it was set.

    @property
    def cost(self) -> Iterator[tuple[str, str]]:
        said = self.manifest or {}
        if seconds := said.get("seconds", {}).get("training"):
            yield "training", duration(seconds)
            yield "tokens", f"{said['tokens']:,} ({said['tokens'] / seconds:,.0f} a second)"
        if whole := said.get("seconds", {}).get("in all"):
            yield "in all", f"{duration(whole)}, evaluation and saving included"
        if "steps" in said:
            yield "updates", f"{said['steps']:,}"
        if choice := said.get("kept"):
            yield "kept", kept(choice)
        for kind, words in (("gpu", "GPU memory at most"), ("host", "host memory at most")):
            if peak := said.get("peak_bytes", {}).get(kind):
                yield words, f"{peak / 2**30:.2f} GiB"
        if run := said.get("run"):
            where = run.get("gpu") or f"CPU, {run.get('threads')} thread{'s' if run.get('threads') != 1 else ''}"
            yield "machine", f"{where}; {run.get('backend')}, attention {run.get('attention')}"
        if finished := said.get("finished"):
            yield "finished", finished[:16].replace("T", " ")
        if versions := said.get("versions"):
            yield "versions", ", ".join(f"{name} {one}" for name, one in versions.items())

    @cached_property
    def differing(self) -> list[settings.Setting]:
        return list(settings.differing(self.stage, self.kept.inputs)) if self.kept and self.kept.inputs else []

    @property
    def at_default(self) -> str:
        inputs = self.kept.inputs if self.kept else {}
        told = {one.key for one in self.differing}
        lines = [
            f"{one.key}: {json.dumps(one.value, ensure_ascii=False)}"
            for one in settings.every(inputs)
            if one.key not in told
        ]
        return "\n".join(lines) if inputs else ""

    @property
    def options(self) -> list[str]:
        """What the command said beyond its recipe."""
        said = command.of(self.step.attempt) if self.kept else None
        return said.options if said else []

    # Its attempts.

    @cached_property
    def attempts(self) -> list[Attempt]:
        return [one for one in all_attempts(self.folder) if one.begun]

    @property
    def rows(self) -> Iterator[Row]:
        for attempt in self.attempts[:ATTEMPTS_SHOWN]:
            yield self._row(Kept(attempt))

    def _row(self, kept: Kept) -> Row:
        own = self.kept is not None and kept.folder.name == self.kept.name
        against = self.kept.inputs if self.kept else {}
        changes = list(difference(against, kept.inputs)) if against and not own else []
        figures = list(change.changes(kept.before, kept.after, (kept.manifest or {}).get("differences")))
        state = kept.complaint or ("finished" if kept.manifest else "unfinished")
        seconds = (kept.manifest or {}).get("seconds", {}).get("training")
        return Row(
            kept.name,
            own,
            state,
            changes[:_CHANGES_SHOWN],
            max(len(changes) - _CHANGES_SHOWN, 0),
            change.first(figures) if kept.manifest else None,
            duration(seconds) if seconds else "",
        )
