"""What may be thrown away: attempts that no `latest`, no other artifact and no running process names; unused rows."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from pipeline import artifact
from pipeline.artifact import ROWS, Attempt
from pipeline.errors import PipelineError
from pipeline.plan import held


def unneeded(runs: Path, recipe: str) -> list[Attempt]:
    """The attempts at a recipe that can go, each stage's newest first."""
    named = {tail for stage in runs.glob("*/*/") for one in artifact.all_attempts(stage) for tail in _named(one)}
    found = []
    for stage in sorted((runs / recipe).glob("*/")):
        latest = stage / "latest"
        for attempt in artifact.all_attempts(stage):
            is_latest = latest.is_symlink() and latest.resolve() == attempt.folder.resolve()
            # A child may itself be unneeded: it still names its parent until it is gone.
            if not (is_latest or attempt.folder.parts[-2:] in named or held(attempt)):
                found.append(attempt)
    return found


def _named(attempt: Attempt) -> Iterator[tuple[str, ...]]:
    """The artifacts that a manifest stands on, as (stage, fingerprint): its parents, and the model below its adapter.

    Not as whole paths: runs/ may have been moved since.
    """
    if not attempt.finished:
        return
    try:
        manifest = attempt.manifest
    except PipelineError:
        return  # damaged: it names nothing that can be relied on
    for parent in manifest["parents"].values():
        yield Path(parent["folder"]).parts[-3:-1]
    source = Path(manifest["base"]["source"] or "")
    if source.parts[-3:-1] != attempt.folder.parts[-2:]:
        yield source.parts[-3:-1]


def unused_rows(runs: Path) -> list[Path]:
    """Prepared rows that no artifact was trained on; none while a stage runs, for it may be using them."""
    attempts = [attempt for stage in runs.glob("*/*/") for attempt in artifact.all_attempts(stage)]
    if any(held(attempt) for attempt in attempts):
        return []
    used = {_prepared(attempt) for attempt in attempts if attempt.finished}
    return [folder for folder in sorted((runs / ROWS).glob("*")) if folder.name not in used]


def _prepared(attempt: Attempt) -> str | None:
    try:
        return attempt.manifest["data"].get("prepared")
    except PipelineError:
        return None


def size(folder: Path) -> int:
    """In bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def remove(folder: Path) -> None:
    shutil.rmtree(folder)
