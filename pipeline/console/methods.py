"""The methods of tuning as tables."""

from collections.abc import Sequence

from rich.table import Table

from pipeline.console.tables import plain_table

_SERVED = {"beside": "PPO, GRPO", "in_4_bit": "4-bit base", "merged": "merges", "unsloth": "Unsloth"}


def as_table(rows: Sequence[dict], recipe: str) -> Table:
    """What each trains of the recipe's model, where it serves, and when to use it."""
    table = plain_table(f"{recipe}: what each method trains")
    stage = next((row["of"] for row in rows if row["of"]), "")
    on_a_gpu = f"{stage} on a GPU".strip()
    for column in ("method", "trained", "share", "saved", on_a_gpu, "serves", "when"):
        table.add_column(column, justify="left" if column in ("method", "serves", "when") else "right")
    for row in rows:
        figures = ("-", "-", "-")
        if row["trained"] is not None:
            figures = (f"{row['trained']:,}", f"{row['share']:.2%}", _size(row["saved"]))
        figures = (*figures, f"{row['memory'] / 2**30:.1f} GiB" if row["memory"] else "-")
        serves = ", ".join(word for key, word in _SERVED.items() if row[key] and not row["why_not"])
        table.add_row(row["method"], *figures, serves, row["when"] if not row["why_not"] else f"no: {row['why_not']}")
    return table


def as_proofs(rows: Sequence[dict], recipe: str) -> Table:
    """How far each proof is off; the chain relies on all of them. `-`: there is nothing of the kind to be proven."""
    table = plain_table(f"{recipe}: what holds, and how far it is off")
    names = list(dict.fromkeys(name for row in rows for name in row["proofs"]))
    for column in ("method", *names):
        table.add_column(column)
    for row in rows:
        cells = [_off(row["proofs"].get(name), name in row["fails"]) for name in names]
        table.add_row(row["method"], *(cells if row["proofs"] else [row.get("not_tried") or row["fails"][0]]))
    return table


def _off(value: float | str | None, fails: bool) -> str:
    if value is None:
        return "-"
    said = value if isinstance(value, str) else "0" if not value else f"{value:.0e}"
    return f"[red]{said}: fails[/red]" if fails else said


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"
