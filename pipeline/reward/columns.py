"""Whether the rows have what the rewards read: told before anything is trained."""

from collections.abc import Iterable, Sequence

from pipeline.data.shapes.kinds import Prompt
from pipeline.errors import PipelineError
from pipeline.recipe import function
from pipeline.recipe.rewards import Named

SHOWN = 3  # rows of each mistake


def refuse_unreadable(stage: str, rewards: Sequence[Named], rows: Iterable[tuple[str, Prompt]]) -> None:
    """`rows` are (place, row). Raises PipelineError where a built-in reward does not find its answer in one of them, or a
    function's argument is in none.
    """
    judges = [(one.key, judge) for one in rewards if (judge := one.built_in) and judge.reads]
    wanted = {one.key: function.arguments(one.function) for one in rewards if one.is_in_file}
    if not judges and not any(wanted.values()):
        return
    wrong: dict[tuple[str, str], list[str]] = {}
    seen: set[str] = set()
    for place, row in rows:
        seen |= row.columns.keys()
        for key, judge in judges:
            answer = row.columns.get(judge.reads)
            problem = "is not there" if answer is None else judge.problem(answer)
            if problem:
                wrong.setdefault((key, judge.reads), []).append(f'{place}: "{judge.reads}" {problem}')
    lines = []
    for (key, column), places in wrong.items():
        more = f" and {len(places) - SHOWN} more" if len(places) > SHOWN else ""
        lines.append(f"{stage}: {key} reads {column}:\n  " + "\n  ".join(places[:SHOWN]) + more)
    for key, names in wanted.items():
        if missing := [name for name in names if name not in seen]:
            there = f"; they have {', '.join(sorted(seen))}" if seen else "; beside their prompts they have nothing"
            lines.append(f"{stage}: {key} takes {', '.join(missing)}, which no row has{there}.")
    if lines:
        raise PipelineError(
            "\n".join(lines), "Give the rows what is missing, or name another column (column:) or another reward."
        )
