"""What an attempt left, read with tolerance: a log may be cut, a file may be missing or of an earlier version."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pipeline.artifact.attempt import Attempt
from pipeline.errors import PipelineError

MANY_LINES = 4000  # of a log; of more every so manyth is read


@dataclass
class Log:
    """The lines of log.jsonl in the order of their steps, each step once; `notes` are what was wrong with it."""

    lines: list[dict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def last_step(self) -> int:
        return self.lines[-1]["step"] if self.lines else 0


@dataclass(frozen=True)
class Kept:
    """An attempt as the page sees it."""

    attempt: Attempt

    @property
    def name(self) -> str:
        return self.attempt.folder.name

    @property
    def folder(self) -> Path:
        return self.attempt.folder

    @cached_property
    def _read(self) -> tuple[dict | None, str]:
        if not self.attempt.finished:
            return None, ""
        try:
            return self.attempt.manifest, ""
        except PipelineError as error:
            return None, error.what

    @property
    def manifest(self) -> dict | None:
        """None where it is unfinished, or cannot be read: then `complaint` says why."""
        return self._read[0]

    @property
    def complaint(self) -> str:
        return self._read[1]

    @cached_property
    def inputs(self) -> dict:
        return (self.manifest or {}).get("inputs") or self.attempt.inputs or {}

    @cached_property
    def before(self) -> dict:
        """Figures as pipeline.evaluate.figures has them: `metrics`, and `each` row's numbers; without what is not kept."""
        return self._figures("before")

    @cached_property
    def after(self) -> dict:
        return self._figures("after")

    def _figures(self, when: str) -> dict:
        known = _json(self.folder / f"{when}.json")
        if self.manifest:  # what is signed goes before what lies beside it
            known["metrics"] = self.manifest["metrics"][when]
        return {"metrics": {}, "each": {}, "weights": {}, "completions": []} | known

    @cached_property
    def log(self) -> Log:
        return read_log(self.folder / "log.jsonl")

    @cached_property
    def samples(self) -> list[dict]:
        """Answers before and after, as many as are kept: prompt, before, after, and reference where there is one."""
        said = [line for line in _lines(self.folder / "samples.jsonl") if line and {"before", "after"} <= line.keys()]
        return said or list((self.manifest or {}).get("samples", ()))


def read_log(file: Path) -> Log:
    whole, broken = [], 0
    for line in _lines(file, MANY_LINES):
        if line is None or not isinstance(line.get("step"), int):
            broken += 1
        else:
            whole.append(line)
    log = Log()
    by_step: dict[int, dict] = {}
    for line in whole:
        by_step[line["step"]] = by_step.get(line["step"], {}) | line
    log.lines = [by_step[step] for step in sorted(by_step)]
    if broken:
        lines = "a line" if broken == 1 else f"{broken} lines"
        log.notes.append(f"log.jsonl: {lines} cannot be read (it was cut in the middle); the others are drawn")
    return log


def _lines(file: Path, most: int | None = None) -> Iterator[dict | None]:
    """Each line that is JSON, None for one that is not. Of very many only some, evenly, and the last."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    every = -(-len(lines) // most) if most else 1
    for number, line in enumerate(lines):
        if number % every == 0 or number >= len(lines) - 2 or '"eval_' in line:
            try:
                said = json.loads(line)
            except ValueError:
                said = None
            yield said if isinstance(said, dict) else None


def _json(file: Path) -> dict:
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}
