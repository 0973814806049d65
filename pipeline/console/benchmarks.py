"""Results of benchmarks on the terminal."""

from collections.abc import Sequence

from rich.markup import escape
from rich.text import Text

from pipeline.console.figures import number
from pipeline.console.screen import Screen
from pipeline.console.tables import plain_table

STYLES = {"better": "green", "worse": "red"}


def show(screen: Screen, results: Sequence, name: str) -> None:
    """`results` are those of pipeline.report.benchmarks, of the policy of this name; tasks asked alike stand in one table."""
    alike: dict[tuple[str, str], list] = {}
    for one in results:
        alike.setdefault((one.began, one.how), []).append(one)
    for (began, how), some in alike.items():
        against = f", before ({began}) and after" if began else ""
        table = plain_table(f"{name} on benchmarks{against}")
        for heading in ("task", "figure", "before", "after", "difference", "95% of it", "n", ""):
            left = heading in ("task", "figure", "")
            table.add_column(heading, justify="left" if left else "right", no_wrap=heading != "")
        for line in (line for one in some for line in one.lines):
            table.add_row(
                Text(line.task, style="bold"),
                line.figure,
                _with_error(line.before, line.before_error),
                _with_error(line.after, line.after_error),
                "" if line.difference is None else f"{line.difference:+.3f}",
                "" if line.low is None else f"{line.low:+.3f} to {line.high:+.3f}",
                f"{line.questions:,}" if line.questions else "",
                Text(line.word, style=STYLES.get(line.verdict, "")),
            )
        screen.console.print()
        screen.console.print(table)
        screen.message(f"[dim]± is one standard error. Asked with {escape(how)}[/dim]")


def _with_error(value: float | None, error: float | None) -> str:
    if value is None:
        return "-"
    return number(value) if error is None else f"{number(value)} ± {number(error)}"
