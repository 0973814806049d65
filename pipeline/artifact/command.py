"""The command that made an artifact: what it said beyond its recipe. For gc; what was trained is in the inputs."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.artifact.attempt import Attempt
from pipeline.artifact.writing import write_json

FILE = "command.json"  # in the attempt's folder


@dataclass(frozen=True)
class Command:
    recipe: str  # the file, as an absolute path
    overrides: list[str]
    policy: str | None

    @property
    def options(self) -> list[str]:
        """Those that change what is trained; how it is run does not: the backend, how often a prompt is, the processes."""
        how = ("use_unsloth", "share_prompt")
        keys = [(one, one.partition("=")[0]) for one in self.overrides]
        changing = [one for one, key in keys if not key.endswith(how) and not key.startswith("launch.")]
        return [f"--set {one}" for one in changing] + ([f"--policy {self.policy}"] if self.policy else [])


def record(folder: Path, recipe: Path, overrides: Sequence[str], policy: str | None) -> None:
    """Keep the command in an attempt's folder, before its stage begins. One that goes on keeps the first."""
    with suppress(OSError):  # the stage itself says what is wrong with its folder
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / FILE).is_file():
            write_json(folder / FILE, asdict(Command(str(recipe.resolve()), list(overrides), policy)))


def of(attempt: Attempt) -> Command | None:
    """None for an artifact of before commands were recorded."""
    try:
        return Command(**json.loads((attempt.folder / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
