"""One row of a plan: a stage, what is done with it and why, and what it stands on."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pipeline.artifact.attempt import Attempt
from pipeline.artifact.digests import fingerprint
from pipeline.errors import PipelineError
from pipeline.model.backend import Backend
from pipeline.model.base import Base

T = TypeVar("T")
RUN, CONTINUE, EVALUATE, UP_TO_DATE = "run", "continue", "evaluate", "up to date"


RUNNING = "running"  # by another process: to run it here is refused


@dataclass(frozen=True)
class Parent:
    """The policy that a stage starts from."""

    folder: Path  # adapter/ or model/, or any adapter folder of the user's
    sha256: str
    stage: str | None = None
    attempt: Attempt | None = None

    @property
    def is_model(self) -> bool:
        return not (self.folder / "adapter_config.json").is_file()

    @property
    def adapter_config(self) -> dict:
        """What PEFT wrote beside its tensors."""
        file = self.folder / "adapter_config.json"
        try:
            said = dict(json.loads(file.read_text(encoding="utf-8")))
            said["peft_type"]
            return said
        except (OSError, ValueError, TypeError, KeyError):
            raise PipelineError(f"{file}: is not the configuration of an adapter.", "Put it back as it was.") from None


@dataclass(frozen=True)
class Step:
    """One row of the plan."""

    stage: str
    state: str
    why: str
    changes: tuple[str, ...] = ()
    inputs: dict | None = None  # None: known only once the parent is built
    attempt: Attempt | None = None  # the folder to be used or made
    from_step: int = 0
    parent: Parent | None = None
    reward: Parent | None = None
    after: str | None = None  # the stage that has to be built first
    base: Base | None = None
    given: dict = field(default_factory=dict)
    backend: Backend | None = None  # None: nothing is trained
    falls_short: tuple[str, ...] = ()  # of what it must keep: nothing is built on it
    notes: tuple[str, ...] = ()  # what is no reason to stop, and should be known
    missing: tuple[str, ...] = ()  # of its data: it can be planned, and not run

    # What is there as soon as the inputs are known. Each raises ValueError where the parent has to be built first.

    @property
    def known_attempt(self) -> Attempt:
        return self._known(self.attempt)

    @property
    def known_backend(self) -> Backend:
        return self._known(self.backend)

    @property
    def known_inputs(self) -> dict:
        return self._known(self.inputs)

    @property
    def known_fingerprint(self) -> str:
        return fingerprint(self.known_inputs)

    def _known(self, value: T | None) -> T:
        if value is None:
            raise ValueError(f"{self.stage}: is not known before {self.after or 'the base'} is there")
        return value

    @property
    def fingerprint(self) -> str | None:
        return fingerprint(self.inputs) if self.inputs else None

    def to_json(self) -> dict:
        return {
            "stage": self.stage,
            "state": self.state,
            "why": self.why,
            "changes": list(self.changes),
            "notes": list(self.notes),
            "missing": list(self.missing),
            "falls_short": list(self.falls_short),
            "fingerprint": self.fingerprint,
            "folder": str(self.attempt.folder) if self.attempt else None,
            "from_step": self.from_step,
            "backend": self.backend.name if self.backend else None,
            "backend_why": self.backend.why if self.backend else None,
            "parent": self.parent.stage or str(self.parent.folder) if self.parent else self.after,
        }
