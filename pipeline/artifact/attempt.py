"""Artifacts: what a stage leaves behind, found again under the hash of what went into it.

runs/<recipe>/<stage>/<fingerprint>[-attempt]/
    inputs.json     what is trained, hashed: written first
    run.json        how it is run: backend, device, processes
    before.json     the figures of the untrained policy, with every row's: written before the first step
    after.json      the same of the trained one
    checkpoints/    checkpoint-N, while the stage is unfinished and after
    adapter/ or model/
    manifest.json   written last: a folder without one is unfinished

Beside them stand the prepared rows of all recipes, in runs/.data/, see pipeline.data.prepare.cache.
"""

import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.artifact import sealed
from pipeline.artifact.digests import file_sha256
from pipeline.artifact.manifest import MANIFEST, SCHEMA
from pipeline.artifact.writing import write_json
from pipeline.errors import PipelineError

ROWS = ".data"
HOW = "run.json"
CURVES = "tensorboard"
COMPLETE = "complete.json"  # in a checkpoint: the size of every file, written last


@dataclass(frozen=True)
class Attempt:
    """One folder in which a stage was, or is being, run."""

    folder: Path

    @property
    def number(self) -> int:
        return int(self.folder.name.partition("-")[2] or 1)

    @property
    def curves(self) -> Path:
        """Where TensorBoard finds it, beside the stages of its recipe: all of them under one folder."""
        return self.folder.parent.parent / CURVES / self.folder.parent.name / self.folder.name

    @property
    def begun(self) -> bool:
        """Whether its rows and settings were found good; of what was refused before only a log is there."""
        return (self.folder / "inputs.json").is_file() or self.finished

    @property
    def finished(self) -> bool:
        return (self.folder / MANIFEST).is_file()

    @cached_property
    def manifest(self) -> dict:
        """Raises PipelineError where it was edited or does not belong to this program."""
        fix = f"Remove {self.folder} to train it again, or put the original file back."
        return sealed.read(self.folder / MANIFEST, SCHEMA, "not a manifest of this pipeline", fix)

    @property
    def inputs(self) -> dict | None:
        """What went in, or None where the run died before it could say."""
        try:
            return json.loads((self.folder / "inputs.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    @property
    def how(self) -> dict | None:
        """How it is run, as agreed when it was begun or last went on; None before that."""
        file = self.folder / HOW
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    @property
    def output(self) -> Path:
        """adapter/, or model/ after full training."""
        return self.folder / self.manifest["output"]

    def checkpoints(self) -> list[tuple[int, Path]]:
        """The whole checkpoints by step, the last first. A half-written one is not among them."""
        found = []
        for path in self.folder.glob("checkpoints/checkpoint-*"):
            if (step := re.fullmatch(r"checkpoint-(\d+)", path.name)) and _complete(path):
                found.append((int(step[1]), path))
        return sorted(found, reverse=True)

    def check_sizes(self) -> None:
        """A quick look at what the manifest names; `check_content` reads it all."""
        for name, said in self.manifest["files"].items():
            path = self.folder / name
            if not path.is_file() or path.stat().st_size != said["size"]:
                size = f"{path.stat().st_size} bytes" if path.is_file() else "missing"
                self._refuse(name, f"is {size}; the manifest says {said['size']} bytes")

    def check_content(self) -> None:
        self.check_sizes()
        for name, said in self.manifest["files"].items():
            if file_sha256(self.folder / name) != said["sha256"]:
                self._refuse(name, "is not what the manifest says: its digest differs")

    def _refuse(self, name: str, why: str) -> None:
        raise PipelineError(
            f"{self.folder / name}: {why}.",
            f"The artifact is damaged. Remove {self.folder} to train it again.",
        )


def point_latest(attempt: Attempt) -> None:
    """`latest`, for people, beside the attempts of a stage."""
    link = attempt.folder.parent / "latest"
    with suppress(OSError):
        if not (link.is_symlink() and os.readlink(link) == attempt.folder.name):
            temporary = link.with_name(f".latest.{os.getpid()}")
            temporary.symlink_to(attempt.folder.name)
            os.replace(temporary, link)


def _complete(checkpoint: Path) -> bool:
    try:
        sizes = json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def seal(checkpoint: Path) -> None:
    """Record what a checkpoint consists of; without the record it does not count."""
    sizes = {str(p.relative_to(checkpoint)): p.stat().st_size for p in checkpoint.rglob("*") if p.is_file()}
    for name in sizes:
        with (checkpoint / name).open("rb") as file:
            os.fsync(file.fileno())
    write_json(checkpoint / COMPLETE, sizes)


def attempts(stage_folder: Path, name: str) -> list[Attempt]:
    """The attempts at one fingerprint, the first first."""
    found = [Attempt(path) for path in stage_folder.glob(f"{name}*") if re.fullmatch(rf"{name}(-\d+)?", path.name)]
    return sorted(found, key=lambda attempt: attempt.number)


def all_attempts(stage_folder: Path) -> list[Attempt]:
    """Every attempt at a stage, the newest first."""
    found = [Attempt(p) for p in stage_folder.glob("*") if re.fullmatch(r"[0-9a-f]{12}(-\d+)?", p.name)]
    return sorted(found, key=lambda attempt: attempt.folder.stat().st_mtime, reverse=True)
