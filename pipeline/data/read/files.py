"""Which files a recipe's path means: a file, a list, a folder or a glob; a data set of the hub stays as it is."""

from collections.abc import Sequence
from glob import glob, has_magic
from pathlib import Path

from pipeline.data.read import splits
from pipeline.data.source import Rows
from pipeline.errors import PipelineError
from pipeline.hub import data_set

COMPRESSED = (".gz", ".bz2", ".zst")
TEXTS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt")
TABLES = (".parquet", ".arrow")
DECIDING = (".csv", ".tsv", ".txt", *TABLES)  # suffixes by which a file is read; in JSON the content decides
# What `datasets` writes beside its rows, and what its map() leaves behind in the same folder.
_NOT_ROWS = ("dataset_info.json", "state.json", "dataset_dict.json")
_LEFTOVERS = "cache-*.arrow"


def files(paths: str | Sequence[str], config: str | None = None, split: str | None = None) -> list[str]:
    """The files that the paths mean, in the order of the paths; those of a folder or a glob are sorted.

    A folder means all files in and below it with a known suffix, or those of one of its splits, a glob the
    files that it matches; hidden files and the notes of `datasets` are left out of both. Data sets of the hub
    stay as they are: their files are known only once they are read. Raises PipelineError for every path that
    means none, and for a folder of several splits of which none is named.
    """
    paths = [paths] if isinstance(paths, str) else list(paths)
    for path in paths:
        try:
            path.encode()
        except UnicodeEncodeError:
            raise PipelineError(f"{path!a}: its name is not UTF-8.", "Rename the file.") from None
    named = config is not None or split is not None
    if named and not any(data_set(path) or Path(path).is_dir() for path in paths):
        key = "split" if split is not None else "config"
        raise PipelineError(
            f"data.{key}: {', '.join(paths)}: only folders and data sets of the hub have a {key}.", "Leave it out."
        )
    found = {path: _files_of(path, config, split) for path in paths}
    if missing := [_missing(path) for path, there in found.items() if not there]:
        raise PipelineError("\n  ".join(f"{path}: {what}." for path, what, _ in missing), missing[0][2])
    return [file for path in paths for file in found[path]]


def files_of(rows: Rows) -> list[str]:
    """Those that a recipe means."""
    return files(rows.paths, rows.config, rows.split)


def container(path: str) -> str:
    """The suffix that says how the rows are written, without that of a compression: ".csv" of "rows.csv.gz"."""
    name = Path(path)
    return Path(name.stem if compression(path) else name.name).suffix.lower()


def compression(path: str) -> str:
    """ ".gz", ".bz2", ".zst", or nothing."""
    suffix = Path(path).suffix.lower()
    return suffix if suffix in COMPRESSED else ""


def refuse_unknown(where: str, names: Sequence[str]) -> None:
    """Raises PipelineError where a file of a split has rows of a kind that is not read here."""
    if unknown := [name for name in names if not _known(Path(name))]:
        raise PipelineError(
            f"{where}: {len(unknown)} of its {len(names)} files are of a kind that is not read here, such as "
            f"{unknown[0]}.",
            f"Rows may stand in {' '.join(TEXTS + TABLES)}.",
        )


def _files_of(path: str, config: str | None, split: str | None) -> list[str]:
    place = Path(path)
    if data_set(path) or place.is_file():
        return [path]
    if place.is_dir():
        below = _files_in(place, config, split)
    else:
        below = [Path(file) for file in glob(path, recursive=True)] if has_magic(path) else []
    return [str(file) for file in sorted(below) if file.is_file() and not _beside_rows(file)]


def _files_in(folder: Path, config: str | None, split: str | None) -> list[Path]:
    """Those of a split, where one is named; else all, unless they are of several splits."""
    if (saved := splits.saved_splits(folder)) is not None:
        return _below(splits.of_saved(folder, saved, config, split))
    below = _below(folder)
    if inner := next((file.parent for file in below if file.name == splits.SAVED), None):
        raise PipelineError(
            f"{folder}: {inner} in it was saved by DatasetDict.save_to_disk.", "Name that folder, and data.split."
        )
    rows = {file.relative_to(folder).as_posix(): file for file in below if not _beside_rows(file)}
    if config is not None or split is not None:
        # With the files of other kinds, such as images, that the split may be of.
        everything = [file for file in folder.rglob("*") if file.is_file() and not _beside_rows(file)]
        names = [name for file in everything if not hidden(name := file.relative_to(folder))]
        found = splits.of_folder(folder, [name.as_posix() for name in names])
        chosen = splits.choose(str(folder), found, config, split)
        refuse_unknown(str(folder), chosen)
        return [folder / name for name in chosen]
    if splits.may_have_several(folder, rows):
        found = splits.of_folder(folder, rows)
        if len(found) > 1 or len(next(iter(found.values()))) > 1:
            splits.choose(str(folder), found, None, None)  # says which there are
    return below


def _below(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if _known(file) and not hidden(file.relative_to(folder))]


def _known(file: Path) -> bool:
    suffix = container(str(file))
    return suffix in TEXTS or (suffix in TABLES and not compression(str(file)))


def hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _beside_rows(file: Path) -> bool:
    return file.name in _NOT_ROWS or file.match(_LEFTOVERS)


def _missing(path: str) -> tuple[str, str, str]:
    """The path, what is wrong with it, and what to do."""
    place = Path(path)
    if "://" in path:
        return path, "an address, which is not read", "Download it, or name a data set of the hub as hub:owner/name."
    if place.is_dir():
        return path, "no rows in this folder", f"It may hold {' '.join(TEXTS + TABLES)}, at any depth."
    if has_magic(path):
        return path, "no file matches", "Paths are relative to the folder you run in; ** stands for any folders."
    beside = place.parent.iterdir() if place.parent.is_dir() else []
    nearby = sorted(str(file) for file in beside if _known(file) and not hidden(Path(file.name)))[:8]
    fix = f"There are: {', '.join(nearby)}" if nearby else "Paths are relative to the folder you run in."
    return path, "no such file", fix
