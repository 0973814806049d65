"""Two attempts beside each other, on the terminal."""

from rich.markup import escape
from rich.text import Text

from pipeline.console.figures import number
from pipeline.console.screen import Screen
from pipeline.console.tables import plain_table

STYLES = {"better": "green", "worse": "red"}


def show(screen: Screen, beside) -> None:
    """`beside` is a pipeline.report.beside.Beside."""
    a, b = beside.names
    screen.message(f"[bold]{' and '.join(beside.stages)}: what is other in {b} than in {a}[/bold]")
    for key in beside.keys or ["nothing: both have the same inputs"]:
        screen.message(f"  {escape(key)}")
    if beside.changes:
        table = plain_table("\nWhat they ended with (held-out rows)")
        for heading in ("figure", a, b, "difference", "95% of it", "n", ""):
            table.add_column(heading, justify="left" if heading in ("figure", "") else "right", no_wrap=heading != "")
        for one in beside.changes:
            known = one.low is not None
            table.add_row(
                one.label,
                number(one.before),
                number(one.after),
                "" if one.difference is None else f"{one.difference:+.3f}",
                f"{one.low:+.3f} to {one.high:+.3f}" if known else "",
                f"{one.rows:,}" if one.rows else "",
                Text(one.word, style=STYLES.get(one.verdict, "")),
            )
        screen.console.print(table)
    for note in beside.notes:
        screen.message(f"[yellow]note[/yellow] {escape(note)}")
    screen.message(Text(beside.verdict[1], style="bold"))
