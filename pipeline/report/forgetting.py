"""The table of what was forgotten: a row for each policy, a column for what each stage taught."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.report.change import Change
from pipeline.report.part import Part


@dataclass(frozen=True)
class Cell:
    """`value` of a policy on the rows of a stage; `change` is by the policy's own stage, None where the rows are its own."""

    value: float
    change: Change | None = None


@dataclass(frozen=True)
class Table:
    """`columns` are (stage, figure); in `rows` each policy has a cell for every column, None where nothing was measured."""

    columns: list[tuple[str, str]]
    rows: list[tuple[str, list[Cell | None]]]


def table(parts: Sequence[Part]) -> Table:
    """Of the stages that are trained as the recipe stands. Empty where no stage stands on another."""
    trained = [part for part in parts if part.manifest and part.current]
    order = [part.stage for part in trained]
    told = {(one.on, one.name) for part in trained for one in part.forgotten}
    columns = sorted(
        told, key=lambda column: (column[0] not in order, order.index(column[0]) if column[0] in order else 0)
    )
    rows = [(part.stage, [_cell(part, *column) for column in columns]) for part in trained]
    return Table(columns, [(stage, cells) for stage, cells in rows if any(cells)])


def _cell(part: Part, stage: str, figure: str) -> Cell | None:
    if part.stage == stage:
        own = part.kept.after["metrics"].get(figure)
        return None if own is None else Cell(own)
    change = next((one for one in part.forgotten if (one.on, one.name) == (stage, figure)), None)
    return None if change is None or change.after is None else Cell(change.after, change)
