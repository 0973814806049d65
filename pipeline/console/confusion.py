"""Which label was said for which, after a stage: a table of few labels, the commonest mistakes of many."""

from collections.abc import Iterator, Sequence

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pipeline.console.screen import Screen

FEW = 8  # labels whose table fits a screen
MISTAKES = 3  # that are told of more
NONE = "no label"  # the last column


def show(screen: Screen, manifests: Sequence[dict]) -> None:
    for manifest in manifests:
        if found := manifest.get("confusion"):
            screen.console.print()
            title = f"Labels of {manifest['stage']} after it: a row for each right one, a column for each that was said"
            if len(found["after"]["labels"]) > FEW:
                screen.message(Text(title.partition(":")[0], style="bold"))
                for right, said, count in list(mistakes(found["after"]))[:MISTAKES]:
                    screen.message(f"  {count} of {escape(right)} got {escape(said)}")
            else:
                screen.message(Text(title, style="bold"))
                screen.console.print(_table(found["after"]))


def _table(found: dict) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("", *found["labels"], NONE):
        table.add_column(escape(heading), justify="right" if heading else "left", overflow="fold")
    for right, counts in zip(found["labels"], found["table"], strict=True):
        cells = [
            Text(f"{count:,}", style="bold" if said == right else "red" if count else "dim")
            for said, count in zip((*found["labels"], NONE), counts, strict=True)
        ]
        table.add_row(escape(right), *cells)
    return table


def mistakes(found: dict) -> Iterator[tuple[str, str, int]]:
    """(the right label, what was said, how often), the commonest first."""
    said = (*found["labels"], NONE)
    every = [
        (right, other, count)
        for right, counts in zip(found["labels"], found["table"], strict=True)
        for other, count in zip(said, counts, strict=True)
        if other != right and count
    ]
    yield from sorted(every, key=lambda one: -one[2])
