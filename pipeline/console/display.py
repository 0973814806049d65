"""Everything a person sees: the plan, a line or a bar while a stage runs, and what was learned."""

import re
import time
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
from rich.table import Column, Table
from rich.text import Text

from pipeline.data.prepare.account import told
from pipeline.errors import PipelineError
from pipeline.plan.step import CONTINUE, EVALUATE, RUN, RUNNING, UP_TO_DATE, Step
from pipeline.stage import specs

WORTH_SAYING = 10  # seconds of looking ahead
SAMPLE_STRETCHES = 8  # of tokens that carry loss, or do not
SAMPLE_ENDS = (70, 30)  # tokens shown of the beginning and the end of a long one
STYLES = {UP_TO_DATE: "green", CONTINUE: "yellow", EVALUATE: "yellow", RUN: "cyan", RUNNING: "magenta"}
LOWER_IS_BETTER = {"loss", "perplexity", "kl"}
# What needs no trained model: shown beside the model's figure, so that it can be told from luck.
BASELINES = {
    "nearest_question": "looking up the nearest training question",
    "guess_by_length": "guessing by length",
    "few_shot_exact_match": "the untrained policy, few-shot without the template",
}
OWN_COLUMN = {"n", "n_tokens", "reward_deviation"}  # figures of the evaluation itself, not of the model
FEW_ROWS = 30  # below it one row more or less moves a share by more than 3%
SHORT = {
    "rewards/margins": "margin",
    "rewards/accuracies": "accuracy",
    "mean_token_accuracy": "token accuracy",
    "objective/scores": "reward",
    "objective/kl": "KL",
    "val/response_length": "length",
}


def make_console(*, stderr: bool = False) -> Console:
    console = Console(highlight=False, stderr=stderr)
    if not console.is_terminal:  # a pipe has no width, and a log no colors
        console = Console(highlight=False, width=160, color_system=None, stderr=stderr)
    return console


class Display:
    """Shows one command. On a terminal a bar moves; on a pipe each logging step is a line."""

    def __init__(self, console: Console):
        self.console = console
        self.bar: Progress | None = None
        self.stage = ""
        self.steps = 0
        self._rate: tuple[float, int, int] | None = None  # time, tokens and step from which speed is counted
        self._now: dict | None = None  # the latest step
        self._loss: str | None = None
        self._speed, self._begun = 0.0, 0.0

    # -- the plan and the end ------------------------------------------------------------------------

    def plan(self, steps: Sequence[Step], title: str) -> None:
        table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
        for heading in ("stage", "will", "why", "backend", "artifact"):
            words = heading in ("why", "backend")
            table.add_column(heading, style="bold" if heading == "stage" else "", overflow="fold", no_wrap=not words)
        for step in steps:
            table.add_row(
                step.stage,
                Text(step.state, style=STYLES[step.state]),
                escape(step.why),
                f"{step.backend.name}: {step.backend.why}" if step.backend else "-",
                step.attempt.folder.name if step.attempt else "-",
            )
            for change in step.changes[1:]:
                table.add_row("", "", escape(change), "", "", style="dim")
        self.console.print(table)

    def learned(self, manifests: Sequence[dict]) -> None:
        """The before and after of every stage, and where the weights are."""
        table = Table(title="What was learned (held-out rows)", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))  # fmt: skip
        for heading, justify in (("stage", "left"), ("figure", "left"), ("before", "right"), ("after", "right"), ("n", "right"), ("", "left")):  # fmt: skip
            table.add_column(heading, justify=justify, no_wrap=heading != "figure")
        for manifest in manifests:
            for number, row in enumerate(_figures(manifest)):
                table.add_row(Text(manifest["stage"] if number == 0 else "", style="bold"), *row)
        self.console.print()
        self.console.print(table)
        if few := [manifest["stage"] for manifest in manifests if _few(manifest)]:
            text = f"few rows: of {', '.join(few)} fewer than {FEW_ROWS} rows are held out, and chance alone moves such figures"
            self._message(text, "yellow")

    def samples(self, manifest: dict) -> None:
        if not manifest["samples"]:
            return
        self.console.print(f"\n[bold]Sample answers of {manifest['stage']}, before and after[/bold]")
        for sample in manifest["samples"]:
            self._message(f"  [dim]asked [/dim] {escape(_shortened(sample['prompt']))}")
            self._message(f"  [dim]before[/dim] {escape(_shortened(sample['before']))}")
            self._message(f"  [dim]after [/dim] [green]{escape(_shortened(sample['after']))}[/green]")
            self.console.print()

    def where(self, folders: Sequence[tuple[str, Path]]) -> None:
        for stage, folder in folders:
            self.console.print(f"[bold]{stage:<8}[/bold]  {escape(str(folder))}", soft_wrap=True)

    def checked(self, report, name: str) -> None:
        """A file's account, how long its rows are, and one of them piece by piece."""
        rows = report.summary
        written = f", the first ones written as [bold]{' or '.join(report.shapes)}[/bold]" if report.shapes else ""
        usable = rows["trained"] + rows["held_out"] and report.stages
        stages = f"; {' and '.join(report.stages)} can train on them" if usable else ""
        self.console.print(
            f"[bold]{escape(name)}[/bold]: rows of the kind [bold]{report.kind}[/bold]{written}{stages}", soft_wrap=True
        )
        bad = f", of them {report.bad_rows} bad" if report.bad_rows else ""
        self.console.print(f"  {_added_up(rows, bad)}")
        if report.labels:
            self._labeled(report)
        if rows["duplicates_kept"]:
            self.console.print(f"  {rows['duplicates_kept']} say the same as an earlier row", style="yellow")
        if rows["contradictions"]:
            self.console.print(f"  {rows['contradictions']} pairs prefer what an earlier pair rejects", style="yellow")
        if rows["truncated"]:
            self.console.print(
                f"  {rows['truncated']} would be cut to max_length ({report.max_length}): {rows['tokens_cut']} tokens lost, "
                f"{rows['answers_cut']} answers shortened", style="yellow",
            )  # fmt: skip
        self._reasoning_left_out(rows)
        self._garbled(rows)
        for reason, count in rows["dropped_by_reason"].items():
            if reason in report.left_out:
                self.console.print(f"  {count} x {escape(reason)}", style="yellow")
        for line in told(report.mistakes, report.bad_rows):
            self.console.print(f"  {escape(line)}", style="red", soft_wrap=True)
        if report.looks_like:
            self.console.print(f"  {escape(report.looks_like)}", style="bold", soft_wrap=True)
        if report.lengths:
            shown = "  ".join(f"{share}%: {length}" for share, length in report.lengths.items())
            self.console.print(f"\n[bold]{report.unit.capitalize()} a row[/bold] (percentiles)  {shown}")
            most = max(count for *_, count in report.histogram)
            for start, end, count in report.histogram:
                self.console.print(f"  {start:>7,} - {end:>7,}  {'█' * round(40 * count / most):<40} {count:,}")
        if report.loss_share is not None:
            self.console.print(f"  {report.loss_share:.0%} of the {report.unit} carry loss")
        if report.unit == "words" and report.lengths:
            self.console.print(
                "  Counted in words (a Chinese or Japanese character is one), not in tokens: --tokenizer MODEL, a folder "
                "or an id, counts tokens and tries its chat template.", soft_wrap=True,
            )  # fmt: skip
        self._tokens(report.sample, report.unit)

    def _labeled(self, report) -> None:
        fields = " and ".join(f'"{field}"' for field in report.labels)
        left = report.summary["trained"] + report.summary["held_out"]
        self.console.print(
            f"  {escape(fields)} labels the answers as wanted or unwanted, as for KTO. sft learns wanted ones only: "
            f"{left}; {report.unwanted} are unwanted, and data.on_bad_row: drop leaves them out",
            style="yellow", soft_wrap=True,
        )  # fmt: skip

    def _tokens(self, tokens, unit: str) -> None:
        """Those that carry loss in green and, as a pipe has no colors, in brackets."""
        if not tokens:
            return
        self.console.print(f"\n[bold]The first row as {unit}[/bold]; [green]\\[green in brackets][/green] carries loss")
        text = Text("  ")
        stretches = [(learned, list(some)) for learned, some in groupby(tokens, key=lambda token: token.learned)]
        for learned, some in stretches[:SAMPLE_STRETCHES]:
            text.append("[" if learned else "", style="green")
            shown = _abridged([_visible(token.text) for token in some], "·" if unit == "tokens" else "")
            text.append(shown, style="bold green" if learned else "dim")
            text.append("]" if learned else "", style="green")
        if left := sum(len(some) for _, some in stretches[SAMPLE_STRETCHES:]):
            text.append(f" ... and {left} more", style="dim")
        self.console.print(text, soft_wrap=False)

    def comparison(self, result: dict) -> None:
        """Both backends side by side; what is worse than rounding explains stands in red."""
        table = Table(title=f"{result['stage']}: {result['steps']} steps, {result['repeats']} trials each, in turn", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))  # fmt: skip
        for heading in ("", *result["backends"]):
            table.add_column(heading, justify="right" if heading else "left")
        both = list(result["backends"].values())
        speeds = [one["tokens_per_second"] for one in both]
        rows = {
            "tokens/s after warm-up, median": [f"{speed['median']:,.0f}" for speed in speeds],
            "  from slowest to fastest step": [f"{speed['min']:,.0f} - {speed['max']:,.0f}" for speed in speeds],
            "  ratio, pair by pair": ["", ", ".join(f"{ratio:.2f}" for ratio in result["speed_ratios"])],
            "seconds to the first step": [f"{one['seconds_to_first_step']:.1f}" for one in both],
            "  of it in compiling and the like": [f"{one['seconds_compiling']:.1f}" for one in both],
            "seconds in all": [f"{one['seconds_in_all']:.1f}" for one in both],
            "peak GPU memory": [f"{one['gpu_bytes'] / 2**30:.2f} GiB" if one["gpu_bytes"] else "-" for one in both],
            "peak host memory": [f"{one['host_bytes'] / 2**30:.2f} GiB" for one in both],
        }
        shown = next((name for name in ("loss", "preference_accuracy") if name in both[0]["held_out"]), None)
        if shown:
            rows[f"held-out {shown.replace('_', ' ')}"] = [f"{one['held_out'][shown]:.5f}" for one in both]
        for name, cells in rows.items():
            table.add_row(name, *cells)
        loss = result["loss"]
        wrong = loss["first_step_beyond"] is not None
        said = f"{loss['largest_difference']:.1e} at most, {loss['mean_difference']:.1e} on average"
        table.add_row("difference of the training loss", "", Text(said, style="bold red" if wrong else ""))
        table.add_row("  of the gradient norm", "", f"{loss['largest_gradient_norm_difference']:.1e} at most")
        self.console.print()
        self.console.print(table)
        self.console.print(Text(_what_ran(result["what_ran"]), style="dim"), soft_wrap=True)
        self.console.print(Text(result["verdict"], style="bold red" if wrong else "bold green"), soft_wrap=True)

    def error(self, error: PipelineError) -> None:
        self._stop_bar()
        self._message(Text("error: ", style="bold red") + Text(error.what))
        if error.fix:
            self.say(error.fix)

    def say(self, text: str) -> None:
        self._message(Text(text))

    def _message(self, text: Text | str, style: str = "") -> None:
        """A line on a pipe; on a terminal broken between words, and never inside of one."""
        text = Text.from_markup(text, style=style) if isinstance(text, str) else text
        if self.console.is_terminal:
            lines = [_wrapped(line, self.console.width) for line in text.split("\n", allow_blank=True)]
            text = Text("\n").join(lines)
        self.console.print(text, soft_wrap=True)

    # -- a running stage: one method an event of pipeline.train.worker -------------------------------------

    def begin(self, step: Step) -> None:
        self.stage = step.stage
        self.console.print()
        self._message(f"[bold]{step.stage}[/bold]  {escape(step.state)}: {escape(step.why)}")

    def end(self) -> None:
        self._stop_bar()

    def event(self, event: dict) -> None:
        if handle := getattr(self, f"_on_{event['kind']}", None):
            handle(event)

    def _on_account(self, event: dict) -> None:
        line = f"  rows: {_added_up(event)}"
        if event["truncated"]:
            line += f"; {event['truncated']} cut to max_length ({event['tokens_cut']} tokens lost, {event['answers_cut']} answers shortened, see truncated.jsonl)"
        self._message(line)
        if event["duplicates_kept"]:
            self._message(
                f"    {event['duplicates_kept']} say the same as an earlier row (kept; duplicates.jsonl; data.duplicates: drop)"
            )
        if event["contradictions"]:
            self._message(
                f"    {event['contradictions']} pairs prefer what an earlier pair rejects (see duplicates.jsonl)",
                "yellow",
            )
        self._reasoning_left_out(event, " (see truncated.jsonl)")
        self._garbled(event)
        for reason, count in event["dropped_by_reason"].items():
            self._message(f"    dropped {count} x {escape(reason)} (see rejected.jsonl)", "yellow")

    def _reasoning_left_out(self, rows: dict, see: str = "") -> None:
        if rows.get("reasoning_left_out"):
            self._message(
                f"    {rows['reasoning_left_out']} lose the reasoning of earlier turns, which the chat template leaves out "
                f"as the conversation goes on{see}",
                "yellow",
            )

    def _garbled(self, rows: dict) -> None:
        if rows.get("garbled"):
            self.console.print(
                f"    {rows['garbled']} read like UTF-8 that was taken for Latin-1 (Ã¤ for ä), from "
                f"{escape(rows['first_garbled'])} on: the file was broken when it was written", style="yellow",
            )  # fmt: skip

    def _on_rows(self, event: dict) -> None:
        self._update(count=f"{event['read']:,} rows")

    def _on_looked_ahead(self, event: dict) -> None:
        if event["seconds"] >= WORTH_SAYING:
            ready = ", ".join(event["stages"])
            self._message(f"  looked ahead in {_duration(event['seconds'])}: the rows of {ready} are ready")

    def _on_note(self, event: dict) -> None:
        self._message(f"  note: {escape(event['text'])}", "yellow")

    def _on_phase(self, event: dict) -> None:
        if event["name"] == "evaluation after" and self._now:
            took, loss = self._now["at"] - self._begun, f"; last loss {self._loss}" if self._loss else ""
            self._message(
                f"  trained to step {self._now['step']} in {_duration(took)}, {self._speed:,.0f} tokens/s{loss}"
            )
        if "step" in event:  # training goes on after it
            self._update(phase=event["name"])
        elif self.console.is_terminal:
            self._show(event["name"])

    def _on_train(self, event: dict) -> None:
        self.steps, self._begun = event["steps"], event["at"]
        self._rate = self._now = self._loss = None
        if event["step"]:
            self._message(f"  continues from step {event['step']} of {self.steps}")
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
            self._message("  " + "  ".join(part for part in parts if part))

    def _left(self) -> str:
        """How long the steps that are left will take; nothing where that is not known yet, or none is."""
        done, left = self._now["step"] - self._rate[2], self.steps - self._now["step"]
        return f"{_duration((self._now['at'] - self._rate[0]) / done * left)} left" if done and left else ""

    def _on_before(self, event: dict) -> None:
        if event["metrics"]:
            self._message(f"  before: {_in_a_line(event['metrics'])}")

    def _on_evaluated(self, event: dict) -> None:
        if event["metrics"]:
            self._message(f"  held out at {event['step']}/{self.steps}: {_in_a_line(event['metrics'])}")

    def _on_finished(self, event: dict) -> None:
        self._stop_bar()

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


def _wrapped(line: Text, width: int) -> Text:
    """Broken between words, with an indent on; a word that is longer than the width, such as a path, stays whole."""
    plain = line.plain
    indent = " " * (len(plain) - len(plain.lstrip()) + 2)
    breaks, begin, room = [], 0, width
    for word in re.finditer(r"\S+", plain):
        if plain[begin : word.start()].strip() and cell_len(plain[begin : word.end()]) > room:
            breaks.append(word.start())
            begin, room = word.start(), width - len(indent)
    pieces = line.divide(breaks)
    for piece in pieces[:-1]:
        piece.rstrip()
    return Text(f"\n{indent}").join(pieces)


def _added_up(rows: dict, bad: str = "") -> str:
    """An account in a line; `bad` says how many of the dropped rows are."""
    parts = f"{rows['trained']} trained + {rows['held_out']} held out + {rows['dropped']} dropped"
    more = "; there are more, which max_steps does not need" if rows.get("partial") else ""
    return f"{rows['read']} read = {parts}{bad}{more}"


def _abridged(tokens: list[str], dot: str) -> str:
    """Tokens with a dot behind each, or words; of many only the first and the last."""
    first, last = SAMPLE_ENDS
    if len(tokens) > first + last:
        tokens = [*tokens[:first], f" ... {len(tokens) - first - last} more ... ", *tokens[-last:]]
    return dot.join(tokens) + dot


def _visible(text: str) -> str:
    """A token on one line, nothing in it acting on the terminal."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def _what_ran(ran: dict) -> str:
    attention = ", ".join(f"{name} {what}" for name, what in ran["attention"].items())
    machine = ", ".join(str(ran[key]) for key in ("device", "driver") if ran[key])
    return (
        f"{machine}, {ran['threads']} threads; {ran['dtype']}, quantization {ran['quantization']}; max_length "
        f"{ran['max_length']}, batch {ran['batch']}, rank {ran['rank']}; attention: {attention}"
    )


def _figures(manifest: dict):
    before, after = manifest["metrics"]["before"], manifest["metrics"]["after"]
    if not after:
        yield "no held-out rows", "", "", "0", ""
    n, few = str(_rows(manifest)), _few(manifest)
    for name in dict.fromkeys([*after, *before]):
        if name in OWN_COLUMN or name in BASELINES:
            continue
        was, now = before.get(name), after.get(name)
        worse = was is not None and now is not None and now != was and (now > was) == (name in LOWER_IS_BETTER)
        label = name.replace("_", " ")
        yield (
            label,
            _number(was),
            Text(_number(now), style="red" if worse else "bold"),
            n,
            ", ".join(word for word, said in (("worse", worse), ("few rows", few)) if said),
        )
    for name, words in BASELINES.items():
        value = after.get(name, before.get(name))
        if value is not None:
            yield f"  {words}", "", _number(value), n, "for comparison"


def _rows(manifest: dict) -> int:
    """How many held-out rows the figures are of."""
    metrics = manifest["metrics"]
    return metrics["after"].get("n", metrics["before"].get("n", 0))


def _few(manifest: dict) -> bool:
    return 0 < _rows(manifest) < FEW_ROWS


def _in_a_line(metrics: dict) -> str:
    """Figures of the model as they are shown while a stage runs, in the words of the table at its end."""
    left_out = OWN_COLUMN | BASELINES.keys() | {"perplexity"}  # it says the same as the loss
    return "  ".join(
        f"{name.replace('_', ' ')} {_number(value)}" for name, value in metrics.items() if name not in left_out
    )


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"


def _duration(seconds: float) -> str:
    return time.strftime("%H:%M:%S" if seconds >= 3600 else "%M:%S", time.gmtime(seconds))


def _shortened(text: str, limit: int = 200) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
