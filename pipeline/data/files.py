"""Which files a recipe's path means: a file, a list, a folder or a glob."""

from collections.abc import Sequence
from glob import glob, has_magic
from pathlib import Path

from pipeline.errors import PipelineError

COMPRESSED = (".gz", ".bz2", ".zst")
TEXTS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt")
TABLES = (".parquet", ".arrow")
# What `datasets` writes beside its rows, and what its map() leaves behind in the same folder.
_NOT_ROWS = ("dataset_info.json", "state.json", "dataset_dict.json")
_LEFTOVERS = "cache-*.arrow"


def files(paths: str | Sequence[str]) -> list[str]:
    """The files that the paths mean, in the order of the paths; those of a folder or a glob are sorted.

    A folder means all files in and below it with a known suffix, a glob the files that it matches;
    hidden files and the notes of `datasets` are left out of both. Raises PipelineError for every path
    that means none.
    """
    found = {path: _files_of(path) for path in ([paths] if isinstance(paths, str) else paths)}
    if missing := [_missing(path) for path, there in found.items() if not there]:
        raise PipelineError("\n  ".join(f"{path}: {what}." for path, what, _ in missing), missing[0][2])
    return [file for path in ([paths] if isinstance(paths, str) else paths) for file in found[path]]


def container(path: str) -> str:
    """The suffix that says how the rows are written, without that of a compression: ".csv" of "rows.csv.gz"."""
    name = Path(path)
    return Path(name.stem if compression(path) else name.name).suffix.lower()


def compression(path: str) -> str:
    """ ".gz", ".bz2", ".zst", or nothing."""
    suffix = Path(path).suffix.lower()
    return suffix if suffix in COMPRESSED else ""


def _files_of(path: str) -> list[str]:
    place = Path(path)
    if place.is_file():
        return [path]
    if place.is_dir():
        below = [file for file in place.rglob("*") if _known(file) and not _hidden(file.relative_to(place))]
    else:
        below = [Path(file) for file in glob(path, recursive=True)] if has_magic(path) else []
    return [str(file) for file in sorted(below) if file.is_file() and not _beside_rows(file)]


def _known(file: Path) -> bool:
    suffix = container(str(file))
    return suffix in TEXTS or (suffix in TABLES and not compression(str(file)))


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _beside_rows(file: Path) -> bool:
    return file.name in _NOT_ROWS or file.match(_LEFTOVERS)


def _missing(path: str) -> tuple[str, str, str]:
    """The path, what is wrong with it, and what to do."""
    place = Path(path)
    if place.is_dir():
        return path, "no rows in this folder", f"It may hold {' '.join(TEXTS + TABLES)}, at any depth."
    if has_magic(path):
        return path, "no file matches", "Paths are relative to the folder you run in; ** stands for any folders."
    beside = place.parent.iterdir() if place.parent.is_dir() else []
    nearby = sorted(str(file) for file in beside if _known(file) and not _hidden(Path(file.name)))[:8]
    fix = f"There are: {', '.join(nearby)}" if nearby else "Paths are relative to the folder you run in."
    return path, "no such file", fix
