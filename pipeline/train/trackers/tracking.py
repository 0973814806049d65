"""Tells the trackers of a stage, each step once, whatever stopped it in between; a tracker that fails stops nothing.

The truth is the attempt's log.jsonl. A resumed run has forgotten there what came after its checkpoint; the trackers are told
all that is left of it which they do not have yet, and then what happens. A step is told as a whole, once the next one begins:
nothing that belongs to it can come later.
"""

import importlib
import json
import os
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from transformers import Trainer, TrainerCallback
from transformers.integrations.integration_utils import rewrite_logs

from pipeline.train.trackers.tracker import About, Tracker

# The trackers that are told here, by module and class; each is imported where it is asked for.
KINDS = {"tensorboard": "TensorBoard", "wandb": "WandB"}
KEYS = ("WANDB_API_KEY",)  # of the environment: they stand in no log


class Tracking(TrainerCallback):
    """The trackers called `names`. `report` tells whoever watches."""

    def __init__(self, names: Sequence[str], about: About, report: Callable[..., None]):
        self.names, self.about, self.report = names, about, report
        self.log = about.attempt.folder / "log.jsonl"
        self.before: Mapping[str, float] = {}
        self.failed: dict[str, str] = {}
        self._known: dict[str, Tracker] = {}
        self._open: dict[str, Tracker] = {}
        self._step, self._figures = -1, {}  # the step that is not told yet
        self._finished = False

    @contextmanager
    def of(self, trainer: Trainer, before: Mapping[str, float]) -> Iterator[None]:
        """While this lasts they are told of what `trainer` does; `before` are the figures before its first step."""
        if not self.names:
            yield
            return
        self.begin(before)
        trainer.add_callback(self)
        for name in self.names:
            if name not in KINDS:
                from pipeline.train.trackers.integration import Integration

                told = Integration(name, self.about.attempt.folder, self._guarded)
                trainer.add_callback(told)
                told.on_init_end(trainer.args, trainer.state, trainer.control)  # as if it had been there all the time
        try:
            yield
            if trainer.state.global_step < trainer.state.max_steps:  # of the last one something may still come
                self._flush()
        finally:
            self.close()

    def begin(self, before: Mapping[str, float]) -> None:
        self.before = before
        for name in self.names:
            if name in KINDS:
                self._guarded(name, lambda name=name: self._start(name))

    def _start(self, name: str) -> None:
        module = importlib.import_module(f"pipeline.train.trackers.{name}")
        tracker = getattr(module, KINDS[name])(self.about, lambda text: self._note(name, text))
        self._known[name] = tracker
        tracker.open()
        self._open[name] = tracker

    # -- what is logged ----------------------------------------------------------------------------------

    def on_train_begin(self, args, state, control, **_):
        """The log has been cut to where this run begins."""
        self.catch_up(state.max_steps)

    def on_log(self, args, state, control, logs=None, **_):
        self._take({"step": state.global_step} | (logs or {}))

    def catch_up(self, last: int) -> None:
        """Tell what has been logged so far, in a training of `last` steps."""
        self._take({"step": 0} | {f"eval_{name}": value for name, value in self.before.items()})
        if self.log.is_file():
            for line in self.log.read_text(encoding="utf-8").splitlines():
                self._take(json.loads(line))
        if 0 < self._step < last:
            self._flush()
        for name, tracker in list(self._open.items()):
            self._guarded(name, tracker.caught_up)

    def _take(self, line: Mapping) -> None:
        if "train_loss" in line:
            return  # the trainer's last words: they are no figures of a step
        if line["step"] != self._step:
            self._flush()
        self._step = line["step"]
        self._figures |= rewrite_logs(
            {key: value for key, value in line.items() if key != "step" and isinstance(value, int | float)}
        )

    def _flush(self) -> None:
        for name, tracker in list(self._open.items()):
            if self._figures and self._step > tracker.held:
                self._guarded(name, lambda tracker=tracker: tracker.row(self._step, self._figures))
        self._figures = {}

    # -- the end -----------------------------------------------------------------------------------------

    def finish(self, manifest: Mapping) -> None:
        """With what the manifest is going to say."""
        after = manifest["metrics"]["after"].items()
        of_step = manifest.get("kept", {}).get("step", manifest["steps"])
        if of_step == manifest["steps"]:  # else they are of an earlier step
            self._take({"step": manifest["steps"]} | {f"eval_{name}": value for name, value in after})
        self._flush()
        for name, tracker in list(self._open.items()):
            self._guarded(name, lambda tracker=tracker: tracker.finish(manifest))
        self._finished = True
        self.close()

    def close(self) -> None:
        """Whatever stopped it: a step that may not be whole is told by the run that goes on."""
        closing, self._open = self._open, {}
        for name, tracker in closing.items():
            self._guarded(name, lambda tracker=tracker: tracker.close(self._finished))

    def again(self, manifest: Mapping) -> None:
        """Of a finished stage that was evaluated again."""
        self.begin(manifest["metrics"]["before"])
        self.catch_up(manifest["steps"])
        self.finish(manifest)

    def summary(self) -> dict[str, dict]:
        """For the manifest: where each tracker is, and why one was not told all."""
        where = {name: self._known[name].described if name in self._known else {} for name in self.names}
        return {name: where[name] | ({"failed": self.failed[name]} if name in self.failed else {}) for name in where}

    # -- what fails --------------------------------------------------------------------------------------

    def _guarded(self, name: str, act: Callable[[], object]) -> bool:
        """Whether it did not fail. A tracker that has failed once is not told again."""
        try:
            act()
            return True
        except Exception as error:
            print(_without_keys(traceback.format_exc()), flush=True)
            self._note(name, f"{name} failed ({type(error).__name__}: {error}); the stage goes on without it")
            if tracker := self._open.pop(name, None):
                with suppress(Exception):  # it may still keep what it was told so far
                    tracker.close(False)
            return False

    def _note(self, name: str, text: str) -> None:
        """Once, on the screen and in the manifest."""
        self.failed[name] = _without_keys(" ".join(text.split()))
        self.report("note", text=self.failed[name])


def _without_keys(text: str) -> str:
    for key in filter(None, map(os.environ.get, KEYS)):
        text = text.replace(key, "***")
    return text
