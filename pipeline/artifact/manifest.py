"""The last act of a stage: what it was made from, what it measured, and the digests of what it names."""

from hashlib import sha256
from pathlib import Path

from pipeline.artifact.digests import canonical, file_sha256
from pipeline.artifact.writing import write_json

MANIFEST = "manifest.json"


SCHEMA = 1


def write_manifest(folder: Path, manifest: dict) -> None:
    """The last act of a stage. Adds the digests of what it names, and of itself."""
    output = folder / manifest["output"]
    files = {
        str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": file_sha256(path)}
        for path in sorted(output.rglob("*"))
        if path.is_file()
    }
    manifest = {"schema": SCHEMA} | manifest | {"files": files}
    write_json(folder / MANIFEST, manifest | {"sha256": sha256(canonical(manifest)).hexdigest()})
