"""What cannot be trained by several processes, or not by so many: refused before anything is loaded."""

from pipeline.errors import PipelineError
from pipeline.recipe.fields import effective
from pipeline.recipe.launch import EACH, PASSES, divided
from pipeline.recipe.recipe import Recipe
from pipeline.stage import specs

ALONE = "Or train in one process: --processes 1 (PROCESSES=1)."


def refuse(recipe: Recipe, name: str, given: dict) -> None:
    """Raises PipelineError where the steps of a stage, trained with `given`, cannot be dealt out."""
    size = recipe.launch.size
    try:
        divided(specs()[name], given, size)
    except ValueError as error:
        values = effective(specs()[name].config, given)
        rows = values[EACH] * values[PASSES]
        passes = (
            f"{EACH}: {rows // size} and {PASSES}: {size}" if rows % size == 0 else f"{PASSES}: {size}, for example"
        )
        raise PipelineError(
            f"{recipe.path}: stages.{name}: its steps cannot be shared by {size} processes: {error}.",
            f"Set stages.{name}.train.{passes}, which is another recipe and is trained anew. {ALONE}",
        ) from None
