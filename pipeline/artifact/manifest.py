"""The last act of a stage: what it was made from, what it measured, and the digests of what it names."""

from pathlib import Path

from pipeline.artifact import sealed
from pipeline.artifact.digests import file_sha256

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
    sealed.write(folder / MANIFEST, manifest)
