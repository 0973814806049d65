"""What a command ends with, and what it begins with: the plan, what was learned, samples, two backends side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pipeline.console.figures import FEW_ROWS, are_few, figure_rows, verdicts
from pipeline.console.screen import Screen
from pipeline.plan.step import CONTINUE, EVALUATE, RUN, RUNNING, UP_TO_DATE, Step

STYLES = {UP_TO_DATE: "green", CONTINUE: "yellow", EVALUATE: "yellow", RUN: "cyan", RUNNING: "magenta"}


def plan(screen: Screen, steps: Sequence[Step], title: str, needs: Mapping[str, Text] | None = None) -> None:
    """The steps, one a row; `needs` has a cell more for each of them by its stage."""
    table = plain_table(title)
    for heading in ("stage", "will", "why", "backend", *(["on a GPU"] if needs else []), "artifact"):
        words = heading in ("why", "backend", "on a GPU")
        table.add_column(heading, style="bold" if heading == "stage" else "", overflow="fold", no_wrap=not words)
    for step in steps:
        table.add_row(
            step.stage,
            Text(step.state, style=STYLES[step.state]),
            escape(step.why),
            f"{step.backend.name}: {step.backend.why}" if step.backend else "-",
            *([needs[step.stage]] if needs else []),
            step.attempt.folder.name if step.attempt else "-",
        )
        for lost in step.falls_short:
            table.add_row("", Text("falls short", style="bold red"), escape(lost), "", "")
        for change in step.changes[1:]:
            table.add_row("", "", escape(change), "", "", style="dim")
    screen.console.print(table)
    for note in dict.fromkeys(note for step in steps for note in step.notes):
        stages = ", ".join(step.stage for step in steps if note in step.notes)
        screen.message(f"[yellow]note[/yellow] {stages}: {escape(note)}")


def learned(screen: Screen, manifests: Sequence[dict]) -> None:
    """The before and after of every stage, and where the weights are."""
    table = plain_table("What was learned (held-out rows)")
    for heading in ("stage", "figure", "before", "after", "n", ""):
        number = heading in ("before", "after", "n")
        table.add_column(heading, justify="right" if number else "left", no_wrap=heading != "figure")
    for manifest in manifests:
        for number, row in enumerate(figure_rows(manifest)):
            table.add_row(Text(manifest["stage"] if number == 0 else "", style="bold"), *row)
    screen.console.print()
    screen.console.print(table)
    for manifest in manifests:
        if judge := manifest.get("judge"):
            screen.message(f"[bold]judge[/bold] {manifest['stage']}: {escape(verdicts(judge))}")
    if few := [manifest["stage"] for manifest in manifests if are_few(manifest)]:
        names = ", ".join(few)
        text = f"few rows: of {names} fewer than {FEW_ROWS} held-out rows were measured, and chance alone moves such figures"
        screen.message(text, "yellow")


def falls_short(screen: Screen, step: Step) -> None:
    """Why a run ends at a stage that was trained."""
    for lost in step.falls_short:
        screen.message(f"[bold red]falls short[/bold red] {step.stage}: {escape(lost)}")
    text = "This run builds nothing on it, and `latest` does not move to it. Train it otherwise, or change what it must keep."
    screen.message(text, "yellow")


def samples(screen: Screen, manifest: dict) -> None:
    if not manifest["samples"]:
        return
    screen.console.print(f"\n[bold]Sample answers of {manifest['stage']}, before and after[/bold]")
    for sample in manifest["samples"]:
        screen.message(f"  [dim]asked [/dim] {escape(_shortened(sample['prompt']))}")
        screen.message(f"  [dim]before[/dim] {escape(_shortened(sample['before']))}")
        screen.message(f"  [dim]after [/dim] [green]{escape(_shortened(sample['after']))}[/green]")
        screen.console.print()


def where(screen: Screen, folders: Sequence[tuple[str, Path]]) -> None:
    for stage, folder in folders:
        screen.console.print(f"[bold]{stage:<8}[/bold]  {escape(str(folder))}", soft_wrap=True)


def comparison(screen: Screen, result: dict) -> None:
    """Both backends side by side; what is worse than rounding explains stands in red."""
    table = plain_table(f"{result['stage']}: {result['steps']} steps, {result['repeats']} trials each, in turn")
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
    screen.console.print()
    screen.console.print(table)
    screen.console.print(Text(_what_ran(result["what_ran"]), style="dim"), soft_wrap=True)
    screen.console.print(Text(result["verdict"], style="bold red" if wrong else "bold green"), soft_wrap=True)


def plain_table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))


def _what_ran(ran: dict) -> str:
    attention = ", ".join(f"{name} {what}" for name, what in ran["attention"].items())
    machine = ", ".join(str(ran[key]) for key in ("device", "driver") if ran[key])
    return (
        f"{machine}, {ran['threads']} threads; {ran['dtype']}, quantization {ran['quantization']}; max_length "
        f"{ran['max_length']}, batch {ran['batch']}, rank {ran['rank']}; attention: {attention}"
    )


def _shortened(text: str, limit: int = 200) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
