"""What cannot be trained by several processes, or not by so many: refused before anything is loaded."""

from pipeline.errors import PipelineError
from pipeline.recipe.launch import divided
from pipeline.recipe.recipe import Recipe
from pipeline.stage import specs

ALONE = "Or train in one process: --processes 1 (PROCESSES=1)."


def refuse(recipe: Recipe, name: str, given: dict) -> None:
    """Raises PipelineError where the steps of a stage, trained with `given`, cannot be dealt out."""
    size = recipe.launch.size
    try:
        divided(specs()[name], given, size)
    except ValueError as error:
        raise PipelineError(
            f"{recipe.path}: stages.{name}: its steps cannot be shared by {size} processes: {error}.",
            f"Change these, so that a step is the same for any number of processes. {ALONE}",
        ) from None
