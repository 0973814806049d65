"""A mistake in a recipe: where it is and what is wrong there."""

from collections.abc import Sequence

from pipeline.errors import PipelineError

Problem = tuple[tuple, str]  # a key path and what is wrong there


class RecipeError(PipelineError):
    """A recipe that cannot be used; `problems` holds one line for each mistake."""

    def __init__(self, problems: Sequence[str], fix: str = "Mend the recipe and run the same command again."):
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems), fix)
