"""What cannot be trained by several processes, or not by so many: refused before anything is loaded."""

from pipeline.errors import PipelineError
from pipeline.recipe.fields import effective
from pipeline.recipe.launch import EACH, PASSES, divided
from pipeline.recipe.recipe import Recipe
from pipeline.stage import Spec, specs

ALONE = "Or train in one process: --processes 1 (PROCESSES=1)."


def refuse(recipe: Recipe, name: str, given: dict) -> None:
    """Raises PipelineError where the steps of a stage, trained with `given`, cannot be dealt out."""
    spec, size = specs()[name], recipe.launch.size
    try:
        divided(spec, given, size)
    except ValueError as error:
        raise PipelineError(
            f"{recipe.path}: stages.{name}: its steps cannot be shared by {size} processes: {error}.",
            f"Set stages.{name}.train.{_would_do(spec, given, size)}, which is another recipe and is trained anew. {ALONE}",
        ) from None


def _would_do(spec: Spec, given: dict, size: int) -> str:
    """What is near to the step as it is, and can be dealt out."""
    values = effective(spec.config, given)
    rows, least = values[EACH] * values[PASSES], size * spec.least.get(EACH, 1)
    if spec.piece_of_all:
        return f"{EACH}: {-(-max(values[EACH], least) // size) * size}"
    return f"{EACH}: {rows // size} and {PASSES}: {size}" if rows % size == 0 else f"{PASSES}: {size}"
