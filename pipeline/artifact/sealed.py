"""JSON files that carry a digest of themselves: an edited one is refused."""

import json
from hashlib import sha256
from pathlib import Path

from pipeline.artifact.digests import canonical
from pipeline.artifact.writing import write_json
from pipeline.errors import PipelineError


def write(path: Path, said: dict) -> None:
    """`said` has its "schema"."""
    write_json(path, said | {"sha256": sha256(canonical(said)).hexdigest()})


def read(path: Path, schema: int, what: str, fix: str) -> dict:
    """What was written, without its digest. Raises PipelineError, with `fix`, where it is not `what`, of this schema, as it was."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        digest = said.pop("sha256")
        if sha256(canonical(said)).hexdigest() != digest:
            raise PipelineError(f"{path}: was changed after it was written: its digest does not match.", fix)
        if said["schema"] != schema:
            raise PipelineError(f"{path}: has schema {said['schema']}; this version reads {schema}.", fix)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise PipelineError(f"{path}: is {what}.", fix) from None
    return said
