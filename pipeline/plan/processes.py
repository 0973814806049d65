"""What cannot be trained by several processes, or not by so many: refused before anything is loaded."""

from collections.abc import Iterable

from pipeline.errors import PipelineError
from pipeline.plan.step import CONTINUE, RUN, Step
from pipeline.recipe.fields import effective
from pipeline.recipe.launch import EACH, PASSES, divided
from pipeline.recipe.recipe import Recipe
from pipeline.stage import Spec, specs

ALONE = "Or train in one process: --processes 1 (PROCESSES=1)."


def check(recipe: Recipe, steps: Iterable[Step]) -> None:
    """Raises PipelineError with every stage that is to be trained and whose steps cannot be dealt out."""
    size, wrong, fixes = recipe.launch.size, [], []
    for step in steps:
        spec, given = specs()[step.stage], step.given or recipe.given(step.stage, full=False)
        try:
            if step.state in (RUN, CONTINUE):
                divided(spec, given, size)
        except ValueError as error:
            wrong.append(f"stages.{step.stage}: its steps cannot be shared by {size} processes: {error}.")
            fixes.append(f"stages.{step.stage}.train.{_would_do(spec, given, size)}")
    if wrong:
        anew = "which makes another recipe of it, trained anew."
        raise PipelineError(f"{recipe.path}: " + "\n  ".join(wrong), f"Set {'; '.join(fixes)}, {anew} {ALONE}")


def _would_do(spec: Spec, given: dict, size: int) -> str:
    """What is near to the step as it is, and can be dealt out."""
    values = effective(spec.config, given)
    rows, least = values[EACH] * values[PASSES], size * spec.least.get(EACH, 1)
    if spec.piece_of_all:
        return f"{EACH}: {-(-max(values[EACH], least) // size) * size}"
    return f"{EACH}: {rows // size} and {PASSES}: {size}" if rows % size == 0 else f"{PASSES}: {size}"
