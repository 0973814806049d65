"""Does the card say what the lineage says? Its words may be edited on the hub; its figures are those of the manifests."""

import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.use import card_text
from pipeline.use.card import results
from pipeline.use.finding import OPEN, PROVEN, WRONG, Finding
from pipeline.use.known import CARD

Row = tuple[str, ...]


def card(folder: Path, said: dict) -> Finding:
    """`said` is the lineage. A row of a table of ours that has other cells is wrong, and so is another figure for the hub."""
    file = folder / CARD
    if not file.is_file():
        return Finding(OPEN, CARD, "is not there")
    text = file.read_text(encoding="utf-8", errors="replace")
    tables = {
        "What it learned": card_text.learned(said)[0],
        "Data": card_text.data(said, {})[0],
        "Where it comes from": card_text.descent(said, "")[1],
    }
    missing = 0
    for heading, table in tables.items():
        ours, theirs = list(_rows(table)), list(_rows(_section(text, heading)))
        for row in theirs:
            if row not in ours and len(row) == len(ours[0]):
                return Finding(WRONG, CARD, f'says "{" | ".join(row)}", which the lineage does not')
        missing += sum(row not in theirs for row in ours)
    if wrong := next(_other_figures(text, said), None):
        return Finding(WRONG, CARD, wrong)
    if missing:
        return Finding(OPEN, CARD, f"was edited: {missing} rows of its tables are not there")
    return Finding(PROVEN, CARD, "its figures, rows and digests are those of the lineage; its words may be anybody's")


def _section(text: str, heading: str) -> str:
    found = re.search(rf"^## {re.escape(heading)}\s*$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def _rows(text: str) -> Iterator[Row]:
    """Of the tables in it, but for the lines under their headings."""
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("|") and line.strip("|-: "):
            yield tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|")))


def _other_figures(text: str, said: dict) -> Iterator[str]:
    """What the metadata say for the hub's own display."""
    from huggingface_hub import ModelCard

    ours = {(one.dataset_name, one.metric_name): one.metric_value for one in results(said)}
    try:
        theirs = ModelCard(text, ignore_metadata_errors=True).data.eval_results or []
    except (ValueError, TypeError, AttributeError) as error:
        yield f"its metadata cannot be read: {type(error).__name__}: {error}"
        return
    for one in theirs:
        own = ours.get((one.dataset_name, one.metric_name), one.metric_value)
        if own != one.metric_value:
            yield f"its metadata say {one.metric_name} {one.metric_value}, and the lineage {own}"
