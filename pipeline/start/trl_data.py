"""What TRL's scripts are told of their data sets: one by name, or a mixture. Compared with `trl.scripts` of TRL 1.14.2."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.recipe.reading import data_section
from pipeline.start.looked import look
from pipeline.start.translation import Translation

KEYS = (
    "dataset_name dataset_config dataset_train_split dataset_test_split dataset_streaming dataset_text_field "
    "datasets streaming test_split_size truncation_mode"
).split()
_BUILDERS = ("json", "csv", "parquet", "text", "arrow")
_TEXT = "text"
_KEYS = {"split": "dataset_train_split", "config": "dataset_config"}  # beside dataset_name, what says each


def paths(t: Translation) -> list[str]:
    """Of every file, and of every data set of the hub."""
    return [one for part in _parts(t) for one in _listed(part["path"])]


def is_plain_text(t: Translation) -> bool:
    """Whether `trl sft` would train on texts: where it names their field, or where the files that lie here have nothing else."""
    if t.value("dataset_text_field", _TEXT) != _TEXT:
        return True
    files = paths(t)
    try:
        return bool(files) and all(Path(one).exists() and look(one).kind == _TEXT for one in files)
    except PipelineError:
        return False  # a file that cannot be read is told where it is trained on


def are_strings(t: Translation) -> bool | None:
    """Whether prompts and answers of the rows are plain strings, by the first row of each file; None where none lies here, or some
    are and some are not.
    """
    from pipeline.data.prepare import kinds  # reading needs Arrow

    files = paths(t)
    try:
        looked = [kinds.probed(data_section(path=one)) for one in files if Path(one).exists()]
    except PipelineError:
        return None
    first = [rows[0][0].value for rows in looked if rows and isinstance(rows[0][0].value, Mapping)]
    told = [isinstance(row[key], str) for row in first for key in ("prompt", "completion", "chosen") if key in row]
    return told[0] if told and len({*told}) == 1 and len(first) == len(files) else None


def translate(t: Translation) -> None:
    """Raises PipelineError where no data set is named."""
    parts = _parts(t)
    if not parts:
        raise PipelineError(
            f"{t.source.file}: dataset_name and datasets are missing: there is nothing to train on.",
            "Name one of them there first.",
        )
    key = "datasets" if t.value("datasets") else "dataset_name"
    for part in parts:
        _missing(t, part)
    if len(parts) == 1:
        for name, value in parts[0].items():
            if name != "weight":
                own = _KEYS.get(name) if key == "dataset_name" else None
                t.put(f"data.{name}", value, own if own in t.given else key)
    else:
        t.put("data.mixture", parts, key)
    if (field := t.value("dataset_text_field", _TEXT)) != _TEXT:
        t.put("data.columns", {_TEXT: field}, "dataset_text_field")
    if t.value("streaming" if key == "datasets" else "dataset_streaming"):
        t.put("data.streaming", True, "streaming" if key == "datasets" else "dataset_streaming")
    if t.stage == "reward":
        t.put("data.on_too_long", "drop")
    _held_out(t, key)
    _unread(t, key)


def _parts(t: Translation) -> list[dict[str, Any]]:
    """Each data set as a recipe says it."""
    given = t.value("datasets")
    if not given:
        if not (name := t.value("dataset_name")):
            return []
        config = {"config": str(t.given["dataset_config"])} if t.value("dataset_config") else {}
        return [{"path": _path(str(name)), "split": str(t.value("dataset_train_split", "train"))} | config]
    if not isinstance(given, list) or not all(isinstance(one, Mapping) and "path" in one for one in given):
        raise PipelineError(
            f"{t.source.place(['datasets'])}: datasets must be a list of mappings with a path.", "Mend it first."
        )
    return [_part(one) for one in given]


def _part(given: Mapping) -> dict[str, Any]:
    files = given.get("data_files")
    if given["path"] in _BUILDERS and files:
        paths = _listed(files)
        return {"path": paths if len(paths) > 1 else paths[0]} | _weight(given)
    part = {"path": _path(str(given["path"])), "split": str(given.get("split", "train"))}
    return part | ({"config": str(given["name"])} if given.get("name") else {}) | _weight(given)


def _weight(given: Mapping) -> dict[str, float]:
    return {"weight": float(given["fraction"])} if given.get("fraction") is not None else {}


def _path(name: str) -> str:
    """A path that is there, or looks like one, or else a data set of the hub."""
    local = Path(name).expanduser().exists() or name.startswith((".", "/", "~")) or name.count("/") > 1
    return name if local else f"hub:{name}"


def _listed(paths: object) -> list[str]:
    return [str(one) for one in paths] if isinstance(paths, list) else [str(paths)]


def _missing(t: Translation, part: Mapping) -> None:
    for path in _listed(part["path"]):
        if not path.startswith("hub:") and not Path(path).expanduser().exists():
            t.to_do.append(f"{path} is not there from here: put the path of the rows into data.path.")


def _held_out(t: Translation, key: str) -> None:
    size, evaluated = t.value("test_split_size"), t.value("eval_strategy", "no") not in ("no", False)
    if key == "datasets" and isinstance(size, int | float) and 0 < size < 1:
        t.put("data.held_out", float(size), "test_split_size")
    elif key == "datasets" and size:
        t.drop("test_split_size", "a number of rows; data.held_out is a share of them, such as 0.05")
    elif key == "dataset_name" and evaluated:
        of = "dataset_test_split" if t.value("dataset_test_split") else "eval_strategy"
        t.put("data.held_out", {"split": str(t.value("dataset_test_split", "test"))}, of)
    else:
        t.means.append(
            "No rows were held out there; here 5% are, so that a stage can show what it learned. data.held_out: 0 trains "
            "on all of them."
        )


def _unread(t: Translation, key: str) -> None:
    """What the other way of naming data sets would read, and what chooses among columns or files."""
    other = ("dataset_name dataset_config dataset_train_split dataset_test_split dataset_streaming").split()
    for name in other if key == "datasets" else ("streaming", "test_split_size"):
        if t.value(name):
            t.drop(name, f"is not read there beside {key}")
    if key == "dataset_name" and t.value("dataset_test_split") and "data.held_out" not in _placed(t):
        t.drop("dataset_test_split", "is read there only with an eval_strategy")
    if t.value("truncation_mode"):
        t.drop("truncation_mode", "a row that is too long loses its prompt's beginning first; see data.on_too_long")
    for one in t.value("datasets", []):
        where = one.get("path")
        if one.get("columns"):
            t.means.append(f"{where}: columns: the fields of a known shape are read here, whatever stands beside them.")
        if one.get("data_dir") or (one.get("data_files") and where not in _BUILDERS):
            t.to_do.append(
                f"{where}: data_dir and data_files choose among its files: download them, and name their paths."
            )
        if one.get("fraction") is not None:
            t.means.append(
                f"{where}: fraction: there its first rows; here a weight takes as many, chosen by what they say."
            )


def _placed(t: Translation) -> set[str]:
    return {".".join(place[2:]) for place in t.origins if place[0] == "stages"}
