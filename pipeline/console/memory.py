"""What the stages need of a GPU: a column of the plan, and a picture of the parts."""

import json
from collections.abc import Iterator, Mapping, Sequence

from rich.markup import escape
from rich.text import Text

from pipeline.console.screen import Screen
from pipeline.plan.memory.card import TIGHT, Card
from pipeline.plan.memory.fit import ALTERING, Fit
from pipeline.plan.memory.need import GIB
from pipeline.plan.memory.reckoned import Reckoned
from pipeline.plan.memory.room import Room
from pipeline.wording import duration, listed

WIDTH = 40  # cells of the longest bar


def gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= 0.95 * GIB else f"{size / 2**20:.0f} MiB"


def cell(one: Reckoned, card: Card | None) -> Text:
    """`needs 11.2 GiB`, and against a card whether that fits."""
    if one.need is None:
        return Text("not known", style="dim")
    each = "each GPU " if one.setting and one.setting.held.processes > 1 else ""
    said = f"{each}needs {gib(one.need.bytes)}"
    if card is None:
        return Text(said)
    left = one.left(card)
    if left < 0:
        return Text(f"{said}, {gib(-left)} too much", style="bold red")
    if left < TIGHT * card.bytes:
        return Text(f"{said}, {gib(left)} left: tight", style="yellow")
    return Text(f"{said}, {gib(left)} left", style="green")


def remarks(screen: Screen, found: Sequence[Reckoned], card: Card | None) -> None:
    """Below the plan: what it was held against, and what is not known."""
    if card and any(one.need for one in found):
        screen.message(
            f"[dim]compared with {escape(card.name)}, of which {gib(card.bytes)} can be used; `--memory` shows the parts[/dim]"
        )
    if card and card.half == "float16" and any(one.setting and one.setting.dtype == "bfloat16" for one in found):
        screen.message(
            f"[yellow]note[/yellow] model.dtype: {escape(card.name)} has no bfloat16, and what stands in for it is slow; it has {card.half}"
        )
    alone = [
        f"{one.stage} {gib(one.need.training)}"
        for one in found
        if one.need and one.need.training < 0.9 * one.need.bytes
    ]
    if alone:
        screen.message(
            f"[dim]training alone: {', '.join(alone)}; evaluation.batch_size and evaluation.max_rows say what held-out rows take[/dim]"
        )
    for why in dict.fromkeys(one.why_not for one in found if one.need is None):
        stages = ", ".join(one.stage for one in found if one.why_not == why)
        screen.message(f"[yellow]note[/yellow] what {stages} needs on a GPU is not known: {escape(why)}")


def times(screen: Screen, found: Sequence[Reckoned], to_run: Sequence[str]) -> None:
    """About how long the stages that are to be trained will take, as far as earlier runs tell."""
    named = [one for one in found if one.stage in to_run]
    told = [f"{one.stage} {duration(one.seconds)}" for one in named if one.seconds is not None]
    untold = [one.stage for one in named if one.seconds is None]
    if told:
        rest = f"; of {listed(untold)} none tells" if untold else ""
        screen.message(f"[dim]training by the speed of earlier runs here: about {', '.join(told)}{rest}[/dim]")
    elif untold:
        screen.message("[dim]No earlier run here tells how long it will take.[/dim]")


def bars(screen: Screen, found: Sequence[Reckoned], card: Card | None) -> None:
    """The parts of each stage at its peak, a bar each."""
    for one in (each for each in found if each.need):
        need, parts = one.need, one.need.parts
        longest = max(parts.values())
        screen.console.print()
        screen.message(f"[bold]{one.stage}[/bold]  {cell(one, card).plain}; the peak is in {need.peak.name}")
        for name, size in parts.items():
            bar = "█" * round(WIDTH * size / longest)
            screen.console.print(f"  {name:<14} {gib(size):>9}  [cyan]{bar or '▏'}[/cyan]", soft_wrap=True)
        others = {phase.name: phase.allocated for phase in need.phases if phase is not need.peak}
        if others:
            said = ", ".join(f"{name} {gib(size)}" for name, size in others.items())
            screen.message(f"  [dim]tensors alone: {need.peak.name} {gib(need.peak.allocated)}; {said}[/dim]")
        screen.message(f"  [dim]{_reckoned_from(one)}[/dim]")


def _reckoned_from(one: Reckoned) -> str:
    tokens = one.need.tokens
    known = "(the longest row)"
    if tokens["of"] != "rows":
        known = f"(the most that a row may have: none is prepared yet) and prompts of {tokens['prompt']} (a guess)"
    lost = "" if one.need.margin is None else "; fragmentation is that of earlier runs here"
    trained = f"{one.need.trained:,} parameters are trained"
    micro = f"micro-batches of {tokens['rows']} x {tokens['length']} tokens {known}"
    return f"for {micro}{_shared(one)}; {trained}{lost}"


def _shared(one: Reckoned) -> str:
    """What of it each of several processes has."""
    held = one.setting.held if one.setting else None
    if held is None or held.processes == 1:
        return ""
    if not held.sharded:
        return f" in each of {held.processes} processes, each with the whole model"
    apart = ", which waits in the host's memory" if held.offloaded else ""
    return f" in each of {held.processes} processes, each with a part of the model{apart}"


def fit(screen: Screen, fits: Sequence[Fit], card: Card, stages: int) -> None:
    """The lines that make the stages fit, and what would where nothing does. Of some of the `stages` it may not be known."""
    changes = {path: value for one in fits for path, value in one.changes.items()}
    screen.console.print()
    if not changes and all(one.fits for one in fits):
        which = "every stage" if len(fits) == stages else "every other stage"
        tight = [one.stage for one in fits if card.bytes - one.need.bytes < TIGHT * card.bytes]
        told = f"[green]{which} fits {escape(card.name)} as it stands[/green]"
        if tight:
            told += (
                f", [yellow]{listed(tight)} tightly: the plan may be off by as much, and a desktop needs some[/yellow]"
            )
        screen.message(told)
        return
    if changes:
        said = "rows an update as before" if all(one.fits for one in fits) else "not enough, see below"
        if altering := sorted({path[-1] for path in changes} & ALTERING):
            said += f"; {listed(altering)} change{'s' if len(altering) == 1 else ''} what is trained"
        screen.message(f"[bold]into the recipe, for {escape(card.name)}[/bold] ({said})")
        screen.console.print(Text(as_yaml(changes)), soft_wrap=True)
    for one in fits:
        if one.fits:
            left = card.bytes - one.need.bytes
            tight = ": tight" if left < TIGHT * card.bytes else ""
            screen.message(f"{one.stage} then needs {gib(one.need.bytes)}, {gib(left)} left{tight}")
        else:
            more = gib(one.need.bytes - card.bytes)
            screen.message(
                f"[bold red]{one.stage} does not fit by that[/bold red]: {more} too much in {one.need.peak.name}"
            )
            screen.message(f"  what would do: {'; or '.join(one.otherwise)}")


def room(screen: Screen, found: Sequence[Room], stages: int) -> None:
    """The lines that turn what is to spare into speed: once, where all of the `stages` take them."""
    if not found:
        return
    own = len(found) < stages
    changes = {path if own else path[2:]: value for one in found for path, value in one.changes.items()}
    less = f"up to {max(one.saves for one in found):.0%} less to compute"
    screen.console.print()
    screen.message(f"[bold]and faster with what is to spare[/bold] (activations are kept, not computed again: {less})")
    screen.console.print(Text(as_yaml(changes)), soft_wrap=True)
    screen.message("; ".join(f"{one.stage} then needs {gib(one.need.bytes)}" for one in found))


def as_yaml(changes: Mapping[tuple[str, ...], object]) -> str:
    """Keys by their paths as lines of a recipe."""
    tree: dict = {}
    for path, value in sorted(changes.items()):
        place = tree
        for key in path[:-1]:
            place = place.setdefault(key, {})
        place[path[-1]] = value
    return "\n".join(_lines(tree, ""))


def _lines(tree: Mapping, indent: str) -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and any(isinstance(one, Mapping) for one in value.values()):
            yield f"{indent}{key}:"
            yield from _lines(value, f"{indent}  ")
        elif isinstance(value, Mapping):
            yield f"{indent}{key}: {{{', '.join(f'{name}: {json.dumps(one)}' for name, one in value.items())}}}"
        else:
            yield f"{indent}{key}: {json.dumps(value)}"
