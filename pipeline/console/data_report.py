"""What became of the rows of a file or a stage: their account, their lengths, one of them piece by piece."""

from collections.abc import Sequence
from itertools import groupby

from rich.markup import escape
from rich.text import Text

from pipeline.console.screen import Screen
from pipeline.wording import listed

SAMPLE_STRETCHES = 8  # of tokens that carry loss, or do not
SAMPLE_ENDS = (70, 30)  # tokens shown of the beginning and the end of a long one
COUNTED_IN_WORDS = (
    "  Counted in words (a Chinese or Japanese character is one), not in tokens: --tokenizer MODEL, a folder or an id, "
    "counts tokens and tries its chat template."
)
CUT = "; {truncated} cut to max_length ({tokens_cut} tokens lost, {answers_cut} answers shortened, see truncated.jsonl)"
_SILENCED = (
    "    {reasoning_left_out} lose the reasoning of earlier turns, which the chat template leaves out as the "
    "conversation goes on"
)
_GARBLED = (
    "    {garbled} read like UTF-8 that was taken for Latin-1 (Ã¤ for ä) or GBK (锟斤拷), from {first_garbled} on: the file was "
    "broken when it was written"
)
_LABELED = (
    "  {fields} labels the answers as wanted or unwanted, as for KTO. {stages} learns wanted ones only: {left}; "
    "{unwanted} are unwanted, and data.on_bad_row: drop leaves them out"
)
_SHARE = (
    "  {held_out} held out, where data.held_out asks for {held_out_asked} of the rows: it goes by the prompt, and "
    "rows that ask the same stay together"
)
_SCORES = (
    "  {scored_against} pairs have a higher score for the rejected answer than for the chosen one: "
    "{first_scored_against}"
)
# A number of an account, what is said of it where it is not 0, and its color.
OF_A_FILE = (
    ("held_out_asked", _SHARE, "yellow"),
    ("duplicates_kept", "  {duplicates_kept} say the same as an earlier row", "yellow"),
    ("scored_against", _SCORES, "yellow"),
    ("contradictions", "  {contradictions} pairs prefer what an earlier pair rejects", "yellow"),
    (
        "truncated",
        "  {truncated} would be cut to max_length ({max_length}): {tokens_cut} tokens lost, {answers_cut} answers "
        "shortened",
        "yellow",
    ),
    ("reasoning_left_out", _SILENCED, "yellow"),
    ("garbled", _GARBLED, "yellow"),
)
OF_A_STAGE = (
    ("held_out_asked", f"  {_SHARE}", "yellow"),
    ("scored_against", f"  {_SCORES} (see doubtful.jsonl)", "yellow"),
    (
        "duplicates_kept",
        "    {duplicates_kept} say the same as an earlier row (kept; duplicates.jsonl; data.duplicates: drop)",
        "",
    ),
    (
        "contradictions",
        "    {contradictions} pairs prefer what an earlier pair rejects (see duplicates.jsonl)",
        "yellow",
    ),
    ("reasoning_left_out", f"{_SILENCED} (see truncated.jsonl)", "yellow"),
    ("garbled", _GARBLED, "yellow"),
)


def of_file(screen: Screen, report, name: str) -> None:
    """A file's account, how long its rows are, and one of them piece by piece."""
    from pipeline.data.prepare.account import told  # they bring numpy, which no other command waits for
    from pipeline.data.prepare.kinds import unused_said

    rows = report.summary
    written = f", the first ones written as [bold]{' or '.join(report.shapes)}[/bold]" if report.shapes else ""
    usable = rows["trained"] + rows["held_out"] and report.stages
    stages = f"; {listed(report.stages)} can train on them" if usable else ""
    screen.console.print(
        f"[bold]{escape(name)}[/bold]: rows of the kind [bold]{report.kind}[/bold]{written}{stages}", soft_wrap=True
    )
    bad = f", of them {report.bad_rows} bad" if report.bad_rows else ""
    screen.console.print(f"  {_added_up(rows, bad)}")
    if report.labels:
        _labeled(screen, report)
    _notes(screen, rows | {"max_length": report.max_length}, OF_A_FILE)
    for note in (*report.notes, *report.remarks):
        screen.message(f"  {escape(note)}", "yellow")
    if report.unused:
        screen.message(f"  {escape(unused_said(report.unused))}", "yellow")
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
        screen.message(COUNTED_IN_WORDS)
    _tokens(screen, report.sample, report.unit)


def of_stage(screen: Screen, event: dict) -> None:
    cut = CUT.format(**event) if event["truncated"] else ""
    screen.message(f"  rows: {_added_up(event)}{cut}")
    _notes(screen, event, OF_A_STAGE)
    for reason, count in event["dropped_by_reason"].items():
        screen.message(f"    dropped {count} x {escape(reason)} (see rejected.jsonl)", "yellow")


def _notes(screen: Screen, rows: dict, notes: Sequence[tuple[str, str, str]]) -> None:
    """Those of an account's numbers that are not 0, each in its words."""
    for key, words, style in notes:
        if rows.get(key):
            screen.message(Text(words.format(**rows), style=style))


def _labeled(screen: Screen, report) -> None:
    from pipeline.data.prepare.kinds import learning_wanted

    fields = listed(f'"{field}"' for field in report.labels)
    if report.wanted is not None:
        told = f"{escape(fields)} says of {report.wanted} answers that they are wanted"
        alone = listed(learning_wanted())
        screen.console.print(f"  {told}; {alone} would learn these alone", soft_wrap=True)
        return
    left = report.summary["trained"] + report.summary["held_out"]
    words = _LABELED.format(fields=fields, stages=listed(report.stages), left=left, unwanted=report.unwanted)
    screen.console.print(Text(words, style="yellow"), soft_wrap=True)


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
