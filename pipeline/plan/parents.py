"""What a stage stands on: its policy, its reward model, its base."""

from collections.abc import Iterator
from pathlib import Path

from pipeline.artifact.attempt import Attempt
from pipeline.artifact.manifest import MANIFEST


def bases_of(attempt: Attempt) -> Iterator[dict | None]:
    """The identities of the bases that an artifact stands on, down to the first; None where the trace is lost."""
    while True:
        said = attempt.manifest
        yield said["base"]["identity"]
        if said["output"] != "model":
            folder = Path(where_it_lies(said["base"]["source"], attempt))
        elif above := said["parents"].get("policy"):
            folder = Path(where_it_lies(above["folder"], attempt))
        else:
            yield said["inputs"]["base"]
            return
        attempt_below = Attempt(folder.parent)
        if not attempt_below.finished:
            if said["output"] == "model":
                yield None
            return
        attempt = attempt_below


def where_it_lies(source: str, attempt: Attempt) -> str:
    """Where what an earlier stage made lies now: beside what stands on it, wherever runs/ was moved to."""
    here = attempt.folder.resolve().parent.parent.joinpath(*Path(source).parts[-3:])
    return str(here) if (here.parent / MANIFEST).is_file() else source
