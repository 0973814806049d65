"""Results of benchmarks, kept beside the artifact that they are of.

<attempt>/benchmarks/<task>-<hash>.json       one task as it was asked, before and after the stage
runs/.benchmarks/<policy>/<task>-<hash>.json  the same of a folder that is no artifact of this pipeline

The hash is of all that was asked: the task with its data, examples, limit, template and the harness's version. Each side
names its policy by content. So a result is found again wherever it is kept: what was after one stage is before the next.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.artifact import sealed
from pipeline.artifact.digests import fingerprint

FOLDER, ELSEWHERE = "benchmarks", ".benchmarks"
BEFORE, AFTER = "before", "after"
SCHEMA = 1


def file_of(folder: Path, asked: dict) -> Path:
    """Where a task as it was asked is kept; `asked` has its name as "task"."""
    name = re.sub(r"[^\w.-]+", "_", asked["task"])[:80]
    return folder / f"{name}-{fingerprint(asked)}.json"


def keep(folder: Path, asked: dict, said: dict) -> Path:
    """`said` has what was found "before" and "after" (None where it was not measured) and their "differences"."""
    said = {"schema": SCHEMA, "asked": asked} | said
    folder.mkdir(parents=True, exist_ok=True)
    sealed.write(file_of(folder, asked), said)
    return file_of(folder, asked)


def read(path: Path) -> dict:
    """Raises PipelineError where it was edited, or is none."""
    fix = f"Remove it; `align evaluate` makes it again: {path}"
    return sealed.read(path, SCHEMA, "no result of a benchmark", fix)


def results_in(attempt_folder: Path) -> Iterator[Path]:
    """The results kept with an attempt, by the names of their tasks."""
    yield from sorted((attempt_folder / FOLDER).glob("*.json"))


def found(runs: Path, asked: dict, policy: dict) -> dict | None:
    """What a policy, named by content, once answered to what is asked; kept with any artifact. Edited files are refused."""
    name = file_of(Path(), asked).name
    for path in sorted((*runs.glob(f"*/*/*/{FOLDER}/{name}"), *runs.glob(f"{ELSEWHERE}/*/{name}"))):
        said = read(path)
        for side in (said[AFTER], said[BEFORE]):
            if side is not None and side["policy"] == policy:
                return side
    return None
