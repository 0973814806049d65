"""What a FRESH command has still to do."""

import json
from collections.abc import Sequence
from pathlib import Path

from pipeline.artifact.writing import write_json


class Pending:
    """The stages that a FRESH command has still to do: a killed one goes on, it does not begin anew."""

    def __init__(self, folder: Path, goals: Sequence[str]):
        self.file = folder / ".fresh.json"
        self.goals = list(goals)
        try:
            known = json.loads(self.file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {}
        self._left = known["left"] if known.get("goals") == self.goals else list(goals)

    def left(self) -> list[str]:
        return self._left

    def done(self, stage: str) -> None:
        self._left = [name for name in self._left if name != stage]
        write_json(self.file, {"goals": self.goals, "left": self._left})

    def clear(self) -> None:
        self.file.unlink(missing_ok=True)
