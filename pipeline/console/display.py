"""A running stage: on a terminal a bar moves, on a pipe each logging step is a line."""

import time
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
from rich.table import Column
from rich.text import Text

from pipeline.console import data_report
from pipeline.console.figures import in_a_line
from pipeline.console.screen import Screen
from pipeline.errors import PipelineError
from pipeline.plan.step import Step
from pipeline.stage import specs

WORTH_SAYING = 10  # seconds of looking ahead
SHORT = {
    "rewards/margins": "margin",
    "rewards/accuracies": "accuracy",
    "mean_token_accuracy": "token accuracy",
    "objective/scores": "reward",
    "objective/kl": "KL",
    "val/response_length": "length",
}


class Display(Screen):
    """Shows one command: one method for each kind of event that a stage's process reports."""

    def __init__(self, console: Console):
        super().__init__(console)
        self.bar: Progress | None = None
        self.stage = ""
        self.steps = 0
        self._rate: tuple[float, int, int] | None = None  # time, tokens and step from which speed is counted
        self._now: dict | None = None  # the latest step
        self._loss: str | None = None
        self._speed, self._begun = 0.0, 0.0
        self._paused: float | None = None  # since when something else than training is done

    def error(self, error: PipelineError) -> None:
        self._stop_bar()
        super().error(error)

    def begin(self, step: Step) -> None:
        self.stage = step.stage
        self.console.print()
        self.message(f"[bold]{step.stage}[/bold]  {escape(step.state)}: {escape(step.why)}")

    def end(self) -> None:
        self._stop_bar()

    def event(self, event: dict) -> None:
        if handle := getattr(self, f"_on_{event['kind']}", None):
            handle(event)

    def _on_account(self, event: dict) -> None:
        data_report.of_stage(self, event)

    def _on_rows(self, event: dict) -> None:
        self._update(count=f"{event['read']:,} rows")

    def _on_looked_ahead(self, event: dict) -> None:
        if event["seconds"] >= WORTH_SAYING:
            ready = ", ".join(event["stages"])
            self.message(f"  looked ahead in {_duration(event['seconds'])}: the rows of {ready} are ready")

    def _on_note(self, event: dict) -> None:
        self.message(f"  note: {escape(event['text'])}", "yellow")

    def _on_phase(self, event: dict) -> None:
        if event["name"] == "evaluation after" and self._now:
            took, loss = self._now["at"] - self._begun, f"; last loss {self._loss}" if self._loss else ""
            self.message(
                f"  trained to step {self._now['step']} in {_duration(took)}, {self._speed:,.0f} tokens/s{loss}"
            )
        if "step" in event:  # training goes on after it
            self._pause(event)
            self._update(phase=event["name"])
        elif self.console.is_terminal:
            self._show(event["name"])

    def _pause(self, event: dict) -> None:
        """What is done between two steps is not training: the clock of its speed stands still."""
        if event["name"] != "training":
            self._paused = event["at"] if self._paused is None else self._paused
        elif self._paused is not None:
            lost, self._paused = event["at"] - self._paused, None
            self._begun += lost
            self._rate = self._rate and (self._rate[0] + lost, *self._rate[1:])

    def _on_train(self, event: dict) -> None:
        self.steps, self._begun = event["steps"], event["at"]
        self._rate = self._now = self._loss = self._paused = None
        if event["step"]:
            self.message(f"  continues from step {event['step']} of {self.steps}")
        if self.bar:
            self._show("training", total=self.steps, completed=event["step"])

    def _on_step(self, event: dict) -> None:
        if self._rate is None:
            self._rate = (event["at"], event["tokens"], event["step"])
        self._speed = (event["tokens"] - self._rate[1]) / max(event["at"] - self._rate[0], 1e-9)
        self._now = event
        self._update(completed=event["step"], count=f"{event['step']}/{self.steps}", left=self._left())

    def _on_log(self, event: dict) -> None:
        self._loss = f"{event['loss']:.4g}"
        figures = {"loss": event["loss"]} | {
            SHORT.get(key, key): event[key] for key in specs()[self.stage].key_figures if key in event
        }
        shown = [f"{name} {value:.4g}" for name, value in figures.items()]
        shown += [f"{self._speed:,.0f} tokens/s"] if self._speed else []
        if self.bar:
            self._update(figures=shown)
        else:
            parts = [f"{self.stage} {event['step']}/{self.steps}", *shown, self._left()]
            self.message("  " + "  ".join(part for part in parts if part))

    def _on_before(self, event: dict) -> None:
        if event["metrics"]:
            self.message(f"  before: {in_a_line(event['metrics'])}")

    def _on_evaluated(self, event: dict) -> None:
        if event["metrics"]:
            self.message(f"  held out at {event['step']}/{self.steps}: {in_a_line(event['metrics'])}")

    def _on_finished(self, event: dict) -> None:
        self._stop_bar()

    def _left(self) -> str:
        """How long the steps that are left will take; nothing where that is not known yet, or none is."""
        done, left = self._now["step"] - self._rate[2], self.steps - self._now["step"]
        return f"{_duration((self._now['at'] - self._rate[0]) / done * left)} left" if done and left else ""

    def _show(self, phase: str, total: int | None = None, completed: int = 0) -> None:
        """A bar for what is done now; what stood beside the one before it is gone."""
        if self.bar is None:
            self.bar = Progress(
                TextColumn("  {task.fields[phase]:<10}"),
                BarColumn(bar_width=min(self.console.width // 10, 24)),
                TextColumn("{task.fields[count]}"),
                TextColumn("{task.fields[left]}"),
                _Figures(),
                console=self.console,
                transient=True,
                expand=True,
            )
            self.bar.start()
        for task in self.bar.task_ids:
            self.bar.remove_task(task)
        self.bar.add_task("", total=total, completed=completed, phase=phase, count="", left="", figures=())

    def _update(self, **fields) -> None:
        if self.bar:
            self.bar.update(self.bar.task_ids[0], **fields)

    def _stop_bar(self) -> None:
        if self.bar:
            self.bar.stop()
            self.bar = None


class _Figures(ProgressColumn):
    """The last column: as many whole figures as the terminal has room for, the first ones first."""

    def __init__(self):
        super().__init__(table_column=Column(ratio=1, no_wrap=True))

    def render(self, task) -> "_Fitting":
        return _Fitting(task.fields["figures"])


class _Fitting:
    def __init__(self, parts: Sequence[str]):
        self.parts = parts

    def __rich_measure__(self, console, options):
        return Measurement(0, options.max_width)

    def __rich_console__(self, console, options):
        text = ""
        for part in self.parts:
            longer = f"{text}  {part}"
            if cell_len(longer) > options.max_width:
                break
            text = longer
        yield Text(text, no_wrap=True)


def _duration(seconds: float) -> str:
    return time.strftime("%H:%M:%S" if seconds >= 3600 else "%M:%S", time.gmtime(seconds))
