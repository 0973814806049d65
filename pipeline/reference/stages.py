"""The page of the stages: what each does, on what, after what."""

from pipeline.data.shapes.examples import shapes_of
from pipeline.data.shapes.kinds import KINDS
from pipeline.reference.markdown import anchor, code, codes, page, table
from pipeline.stage import objective, specs


def stages_page() -> str:
    rows = [
        [
            f"`{name}`",
            objective(name),
            f"{spec.row_kind}: {code(KINDS[spec.row_kind].ROW)}",
            codes(reversed(spec.after)) or "the base",
            codes(spec.rewarded_by),
            f"[{spec.config}](train.md#{anchor(_section(name))})",
        ]
        for name, spec in specs().items()
    ]
    return page(
        "Stages",
        "In the order in which they run. A stage starts from the first of *after* that the recipe has, or from what its "
        "`policy` names; the reward model is the recipe's, or what its `reward` names.",
        table(["stage", "does", "rows, the simplest", "after", "reward model", "`train` takes"], rows),
        "## Shapes of rows",
        "How rows of each kind may be written; the shape is recognized, or named by `data.shape`. "
        "[Bring your data](../how-to/data.md) shows them.",
        table(["kind", "shapes"], [[name, codes(shapes_of(name))] for name in KINDS]),
    )


def _section(name: str) -> str:
    config = specs()[name].config
    return ", ".join(other for other, spec in specs().items() if spec.config == config)
