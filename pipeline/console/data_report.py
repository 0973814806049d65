"""What became of the rows of a file or a stage: their account, their lengths, one of them piece by piece."""

from itertools import groupby

from rich.markup import escape
from rich.text import Text

from pipeline.console.screen import Screen
from pipeline.data.prepare.account import told

SAMPLE_STRETCHES = 8  # of tokens that carry loss, or do not
SAMPLE_ENDS = (70, 30)  # tokens shown of the beginning and the end of a long one


def of_file(screen: Screen, report, name: str) -> None:
    """A file's account, how long its rows are, and one of them piece by piece."""
    rows = report.summary
    written = f", the first ones written as [bold]{' or '.join(report.shapes)}[/bold]" if report.shapes else ""
    usable = rows["trained"] + rows["held_out"] and report.stages
    stages = f"; {' and '.join(report.stages)} can train on them" if usable else ""
    screen.console.print(
        f"[bold]{escape(name)}[/bold]: rows of the kind [bold]{report.kind}[/bold]{written}{stages}", soft_wrap=True
    )
    bad = f", of them {report.bad_rows} bad" if report.bad_rows else ""
    screen.console.print(f"  {_added_up(rows, bad)}")
    if report.labels:
        _labeled(screen, report)
    if rows["duplicates_kept"]:
        screen.console.print(f"  {rows['duplicates_kept']} say the same as an earlier row", style="yellow")
    if rows["contradictions"]:
        screen.console.print(f"  {rows['contradictions']} pairs prefer what an earlier pair rejects", style="yellow")
    if rows["truncated"]:
        screen.console.print(
            f"  {rows['truncated']} would be cut to max_length ({report.max_length}): {rows['tokens_cut']} tokens lost, "
            f"{rows['answers_cut']} answers shortened", style="yellow",
        )  # fmt: skip
    _reasoning_left_out(screen, rows)
    _garbled(screen, rows)
    for reason, count in rows["dropped_by_reason"].items():
        if reason in report.left_out:
            screen.console.print(f"  {count} x {escape(reason)}", style="yellow")
    for line in told(report.mistakes, report.bad_rows):
        screen.console.print(f"  {escape(line)}", style="red", soft_wrap=True)
    if report.looks_like:
        screen.console.print(f"  {escape(report.looks_like)}", style="bold", soft_wrap=True)
    if report.lengths:
        shown = "  ".join(f"{share}%: {length}" for share, length in report.lengths.items())
        screen.console.print(f"\n[bold]{report.unit.capitalize()} a row[/bold] (percentiles)  {shown}")
        most = max(count for *_, count in report.histogram)
        for start, end, count in report.histogram:
            screen.console.print(f"  {start:>7,} - {end:>7,}  {'█' * round(40 * count / most):<40} {count:,}")
    if report.loss_share is not None:
        screen.console.print(f"  {report.loss_share:.0%} of the {report.unit} carry loss")
    if report.unit == "words" and report.lengths:
        screen.console.print(
            "  Counted in words (a Chinese or Japanese character is one), not in tokens: --tokenizer MODEL, a folder "
            "or an id, counts tokens and tries its chat template.", soft_wrap=True,
        )  # fmt: skip
    _tokens(screen, report.sample, report.unit)


def of_stage(screen: Screen, event: dict) -> None:
    line = f"  rows: {_added_up(event)}"
    if event["truncated"]:
        line += f"; {event['truncated']} cut to max_length ({event['tokens_cut']} tokens lost, {event['answers_cut']} answers shortened, see truncated.jsonl)"
    screen.message(line)
    if event["duplicates_kept"]:
        screen.message(
            f"    {event['duplicates_kept']} say the same as an earlier row (kept; duplicates.jsonl; data.duplicates: drop)"
        )
    if event["contradictions"]:
        screen.message(
            f"    {event['contradictions']} pairs prefer what an earlier pair rejects (see duplicates.jsonl)",
            "yellow",
        )
    _reasoning_left_out(screen, event, " (see truncated.jsonl)")
    _garbled(screen, event)
    for reason, count in event["dropped_by_reason"].items():
        screen.message(f"    dropped {count} x {escape(reason)} (see rejected.jsonl)", "yellow")


def _reasoning_left_out(screen: Screen, rows: dict, see: str = "") -> None:
    if rows.get("reasoning_left_out"):
        screen.message(
            f"    {rows['reasoning_left_out']} lose the reasoning of earlier turns, which the chat template leaves out "
            f"as the conversation goes on{see}",
            "yellow",
        )


def _garbled(screen: Screen, rows: dict) -> None:
    if rows.get("garbled"):
        screen.console.print(
            f"    {rows['garbled']} read like UTF-8 that was taken for Latin-1 (Ã¤ for ä), from "
            f"{escape(rows['first_garbled'])} on: the file was broken when it was written", style="yellow",
        )  # fmt: skip


def _labeled(screen: Screen, report) -> None:
    fields = " and ".join(f'"{field}"' for field in report.labels)
    left = report.summary["trained"] + report.summary["held_out"]
    screen.console.print(
        f"  {escape(fields)} labels the answers as wanted or unwanted, as for KTO. sft learns wanted ones only: "
        f"{left}; {report.unwanted} are unwanted, and data.on_bad_row: drop leaves them out",
        style="yellow", soft_wrap=True,
    )  # fmt: skip


def _tokens(screen: Screen, tokens, unit: str) -> None:
    """Those that carry loss in green and, as a pipe has no colors, in brackets."""
    if not tokens:
        return
    screen.console.print(f"\n[bold]The first row as {unit}[/bold]; [green]\\[green in brackets][/green] carries loss")
    text = Text("  ")
    stretches = [(learned, list(some)) for learned, some in groupby(tokens, key=lambda token: token.learned)]
    for learned, some in stretches[:SAMPLE_STRETCHES]:
        text.append("[" if learned else "", style="green")
        shown = _abridged([_visible(token.text) for token in some], "·" if unit == "tokens" else "")
        text.append(shown, style="bold green" if learned else "dim")
        text.append("]" if learned else "", style="green")
    if left := sum(len(some) for _, some in stretches[SAMPLE_STRETCHES:]):
        text.append(f" ... and {left} more", style="dim")
    screen.console.print(text, soft_wrap=False)


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
