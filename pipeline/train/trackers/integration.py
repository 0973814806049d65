"""The other trackers, by transformers' own integrations: told what they would be, but once, and without a say in training."""

import json
from collections.abc import Callable
from pathlib import Path

from transformers import TrainerCallback
from transformers.integrations import get_reporting_integration_callbacks

from pipeline.artifact.writing import write_json

TOLD = "told.json"  # in the attempt's folder: by tracker, the last step that it was told of


class Integration(TrainerCallback):
    """Stands before the callback of one tracker. `guard(name, act)` calls `act` and says whether it did not fail."""

    def __init__(self, name: str, folder: Path, guard: Callable[[str, Callable[[], object]], bool]):
        self.name, self.file, self.guard = name, folder / TOLD, guard
        self.known = _read(self.file).get(name, -1)
        self.inner: TrainerCallback | None = None
        guard(name, self._make)

    def _make(self) -> None:
        self.inner = get_reporting_integration_callbacks([self.name])[0]()

    def pass_on(self, event: str, args, state, control, **beside) -> None:
        if self.inner is None or (event == "on_log" and state.global_step <= self.known):
            return
        if not self.guard(self.name, lambda: getattr(self.inner, event)(args, state, control, **beside)):
            self.inner = None
        elif event == "on_log":
            write_json(self.file, _read(self.file) | {self.name: state.global_step})


def _passing(event: str) -> Callable:
    return lambda self, args, state, control, **beside: self.pass_on(event, args, state, control, **beside)


for _event in [name for name in dir(TrainerCallback) if name.startswith("on_")]:
    setattr(Integration, _event, _passing(_event))


def _read(file: Path) -> dict[str, int]:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
