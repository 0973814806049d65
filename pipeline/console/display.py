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
from pipeline.console.clock import Clock
from pipeline.console.figures import in_a_line, kept, short
from pipeline.console.screen import Screen
from pipeline.errors import PipelineError
from pipeline.plan.step import Step
from pipeline.stage import specs

WORTH_SAYING = 10  # seconds of looking ahead
SHORT = {  # what a trainer calls a key figure, and what a person does
    "rewards/margins": "margin",
    "rewards/accuracies": "accuracy",
    "mean_token_accuracy": "token accuracy",
    "objective/scores": "reward",
    "objective/kl": "KL",
    "val/response_length": "length",
    "kl": "KL",
    "completions/mean_length": "length",
    "groups_without_signal": "no signal",
}


class Display(Screen):
    """Shows one command.

    It has a method for each kind of event (pipeline.train.job.events) of which something is seen.
    """

    def __init__(self, console: Console):
        super().__init__(console)
        self.bar: Progress | None = None
        self.stage = ""
        self._clock: Clock | None = None  # of the stage's training, once it has begun
        self._last: str | None = None  # the latest loss, or reward where a stage trains on one

    def error(self, error: PipelineError) -> None:
        self.end()
        super().error(error)

    def begin(self, step: Step) -> None:
        """A stage begins."""
        self.stage, self._clock, self._last = step.stage, None, None
        self.console.print()
        self.message(f"[bold]{step.stage}[/bold]  {escape(step.state)}: {escape(step.why)}")

    def end(self) -> None:
        """Nothing moves any more."""
        if self.bar:
            self.bar.stop()
            self.bar = None

    def event(self, event: dict) -> None:
        if show := getattr(self, f"_on_{event['kind']}", None):
            show(event)

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

    def _on_shrunk(self, event: dict) -> None:
        self._on_note(event)

    def _on_phase(self, event: dict) -> None:
        name, clock = event["name"], self._clock
        if name == "evaluation after" and clock and clock.step is not None:
            last = f"; last {self._last}" if self._last else ""
            speed = f", {clock.speed:,.0f} tokens/s" if clock.speed else ""  # counted from the first step's end
            took = f"{_duration(clock.taken)}{speed}"
            self.message(f"  trained to step {clock.step} in {took}{last}")
        if "step" in event:  # training goes on after it
            if clock:
                (clock.go_on if name == "training" else clock.pause)(event["at"])
            self._update(phase=name)
        elif self.console.is_terminal:
            self._show(name)

    def _on_train(self, event: dict) -> None:
        self._clock, self._last = Clock(event["at"], event["steps"]), None
        if event["step"]:
            self.message(f"  continues from step {event['step']} of {event['steps']}")
        if self.bar:
            self._show("training", total=event["steps"], completed=event["step"])

    def _on_step(self, event: dict) -> None:
        self._clock.stepped(event["at"], event["step"], event["tokens"])
        self._update(completed=event["step"], count=self._count(event), left=self._left())

    def _on_log(self, event: dict) -> None:
        spec = specs()[self.stage]
        names = SHORT | ({"kl": "KL a token"} if spec.rewarded_by else {})
        figures = {"loss": event["loss"]}
        figures |= {names.get(key, key): event[key] for key in spec.key_figures if key in event}
        shown = [f"{name} {short(value)}" for name, value in figures.items()]
        # The loss of what is rewarded is no measure of it: at its own responses it is 0, whatever they are worth.
        self._last = shown[bool(spec.rewarded_by and len(shown) > 1)]
        shown += [f"{self._clock.speed:,.0f} tokens/s"] if self._clock.speed else []
        if self.bar:
            self._update(figures=shown)
        else:
            parts = [f"{self.stage} {self._count(event)}", *shown, self._left()]
            self.message("  " + "  ".join(part for part in parts if part))

    def _on_model(self, event: dict) -> None:
        trained, whole = event["trained"], event["in all"]
        share = "all" if trained == whole else f"{trained:,} ({100 * trained / whole:.3g}%)"
        self.message(f"  trains {share} of {whole:,} parameters")

    def _on_before(self, event: dict) -> None:
        if event["metrics"]:
            self.message(f"  before: {in_a_line(event['metrics'])}")

    def _on_evaluated(self, event: dict) -> None:
        if event["metrics"]:
            self.message(f"  held out at {self._count(event)}: {in_a_line(event['metrics'])}")

    def _on_kept(self, event: dict) -> None:
        self.message(f"  kept: {kept(event)}")

    def _on_finished(self, event: dict) -> None:
        self.end()

    def _count(self, event: dict) -> str:
        """At which of how many steps."""
        return f"{event['step']}/{self._clock.steps}"

    def _left(self) -> str:
        left = self._clock.left
        return "" if left is None else f"{_duration(left)} left"

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


class _Figures(ProgressColumn):
    """The last column: as many whole figures as the terminal has room for, the first ones first."""

    def __init__(self):
        super().__init__(table_column=Column(ratio=1, no_wrap=True))

    def render(self, task) -> "_Fitting":
        return _Fitting(task.fields["figures"])


class _Fitting:
    """A text that ends where the next part would not fit."""

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
