"""What a tracker is told, and what it has to be able to do."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from pipeline.artifact.attempt import Attempt


@dataclass(frozen=True)
class About:
    """One attempt at one stage: it is one run of a tracker, and all stages of a recipe are one group."""

    group: str  # the recipe's name
    stage: str
    attempt: Attempt
    config: Mapping[str, object]  # the resolved recipe, as far as it is about this stage
    run_name: str | None = None
    project: str | None = None

    @property
    def name(self) -> str:
        return self.run_name or f"{self.stage} {self.attempt.folder.name}"


class Tracker(Protocol):
    """Its methods may raise whatever they like: see `Tracking`."""

    held: int  # the last step that it has already, -1 for none: it is told of no step up to that again
    described: dict  # where it is, for the manifest

    def __init__(self, about: About, note: Callable[[str], None]): ...

    def open(self) -> None: ...

    def row(self, step: int, figures: Mapping[str, float]) -> None:
        """All figures of one step. Steps only rise."""

    def caught_up(self) -> None:
        """It has been told of what was logged before this process began; what follows happens now."""

    def finish(self, manifest: Mapping) -> None:
        """What the stage's manifest is going to say: `metrics` before and after, `samples`, and others."""

    def close(self, finished: bool) -> None: ...
