"""LLaMA-Factory's data sets: names in a dataset_info.json, to paths, columns and shapes here."""

import json
from collections.abc import Mapping
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.start.translation import Translation
from pipeline.wording import did_you_mean

KEYS = (
    "dataset dataset_dir eval_dataset val_size max_samples mix_strategy interleave_probs train_on_prompt mask_history streaming"
).split()
_INFO = "dataset_info.json"
# Its names of columns, and the field that is meant here.
_COLUMNS = {"prompt": "instruction", "query": "input", "response": "output", "kto_tag": "label"}
_SAME = ("history", "system", "tools", "chosen", "rejected")
_ROLES = {"user", "assistant", "system", "human", "gpt", "observation", "function_call", "tool", "function"}


def translate(t: Translation, path: Path) -> None:
    names = _names(t.value("dataset"))
    if not names:
        raise PipelineError(
            f"{t.source.file}: dataset is missing: there is nothing to train on.", "Name it there first."
        )
    info, folder = _info(t, path)
    parts = [_part(t, name, info, folder) for name in names]
    _put_parts(t, parts)
    _held_out(t, info, folder)
    _which_rows(t, len(names))
    _learned(t)


def _names(value: object) -> list[str]:
    names = value if isinstance(value, list) else str(value or "").split(",")
    return [str(name).strip() for name in names if str(name).strip()]


def _info(t: Translation, path: Path) -> tuple[Mapping | None, Path]:
    """What dataset_info.json says and the folder that it stands in; None where it is not found."""
    given = Path(str(t.value("dataset_dir", "data")))
    around = [given, *(parent / given for parent in path.resolve().parents), path.resolve().parent]
    found = next((folder for folder in around if (folder / _INFO).is_file()), None)
    if found is None:
        t.to_do.append(
            f"{_INFO} was not found, neither in {given}/ nor beside or above {path.name}, so data.path is a guess: "
            "put the path of the rows there, and the names of their fields into data.columns if they are not recognized."
        )
        return None, given
    try:
        said = json.loads((found / _INFO).read_text(encoding="utf-8"))
    except ValueError as error:
        raise PipelineError(f"{found / _INFO}: is no JSON: {error}", "Mend it first.") from None
    here = Path.cwd()
    return said, found.relative_to(here) if found.is_absolute() and found.is_relative_to(here) else found


def _part(t: Translation, name: str, info: Mapping | None, folder: Path) -> dict:
    """What a recipe says of one data set."""
    if info is None:
        return {"path": str(folder / f"{name}.json")}
    if name not in info:
        raise PipelineError(
            f"{t.source.place(['dataset'])}: {name} is not in {folder / _INFO}{did_you_mean(name, info)}",
            "Mend it first.",
        )
    entry = info[name]
    if "hf_hub_url" in entry:
        part = {"path": f"hub:{entry['hf_hub_url']}", "split": entry.get("split", "train")}
        part |= {"config": entry["subset"]} if entry.get("subset") else {}
    elif "file_name" in entry:
        part = {"path": str(folder / entry["file_name"])}
    else:
        t.to_do.append(f"{name} lies on another hub or is a script: download it, and put its files under data.path.")
        part = {"path": str(folder / f"{name}.json")}
    if columns := _columns(entry):
        part["columns"] = columns
    if entry.get("folder"):
        t.to_do.append(
            f"{name}: folder: {entry['folder']}: is not taken over; name the files of the data set, see data.split."
        )
    if entry.get("formatting", "alpaca") == "alpaca" and t.stage != "pretrain":
        t.said_once(
            "Alpaca rows: instruction and input are joined by a line break there, by an empty line here (see `align data check`)."
        )
    if entry.get("num_samples"):
        t.means.append(
            f"{name}: num_samples: {entry['num_samples']} is not taken over; data.max_rows is of all rows of the stage."
        )
    if seen := {"images", "videos", "audios"} & (entry.get("columns") or {}).keys():
        t.to_do.append(f"{name}: has {', '.join(sorted(seen))}, and models of text alone are trained here.")
    strange = {value for key, value in (entry.get("tags") or {}).items() if key.endswith("_tag")} - _ROLES
    strange -= {"from", "value", "role", "content"}
    if strange:
        t.to_do.append(
            f"{name}: its turns are called {', '.join(sorted(strange))}; see whether `align data check` reads them."
        )
    return part


def _columns(entry: Mapping) -> dict[str, str]:
    said, sharegpt = entry.get("columns") or {}, entry.get("formatting") == "sharegpt"
    named = {_COLUMNS.get(key, key): column for key, column in said.items() if key in _COLUMNS or key in _SAME}
    if sharegpt:
        turns = said.get("messages", "conversations")
        named["conversations"] = turns if turns != "messages" else "conversations"
        named = {key: value for key, value in named.items() if key not in ("instruction", "input", "output")}
    elif "text" in (said.get("prompt"), said.get("response")) or said.get("prompt") == "content":
        named.pop("instruction", None)  # plain texts, which are recognized
    return {ours: theirs for ours, theirs in named.items() if theirs and ours != theirs}


def _put_parts(t: Translation, parts: list[dict]) -> None:
    probabilities = t.value("interleave_probs")
    if probabilities is not None:
        weights = [float(one) for one in str(probabilities).strip("[]").split(",")]
        for part, weight in zip(parts, weights, strict=False):
            part["weight"] = weight
        t.means.append(
            "interleave_probs: rows are never repeated here; what a weight leaves out is counted and listed."
        )
    if len(parts) == 1:
        for key, value in parts[0].items():
            if key != "weight":
                t.put(f"data.{key}", value, "dataset")
    elif all(part.keys() == {"path"} for part in parts):
        t.put("data.path", [part["path"] for part in parts], "dataset")
    else:
        t.put("data.mixture", parts, "dataset")
        if probabilities is not None:
            t.put("data.mixture", parts, "interleave_probs")


def _held_out(t: Translation, info: Mapping | None, folder: Path) -> None:
    if names := _names(t.value("eval_dataset")):
        if t.value("val_size"):
            t.drop("val_size", "eval_dataset is held out")
        parts = [_part(t, name, info, folder) for name in names]
        kept = [{key: value for key, value in part.items() if key != "columns"} for part in parts]
        paths = [part["path"] for part in kept]
        simple = len(paths) == 1 and kept[0].keys() == {"path"}
        t.put(
            "data.held_out",
            paths[0] if simple else {"path": paths} | {k: v for k, v in kept[0].items() if k != "path"},
            "eval_dataset",
        )
        if len(parts) > 1:
            t.means.append("eval_dataset: several are measured together here.")
    else:
        t.share_held_out("val_size")


def _which_rows(t: Translation, data_sets: int) -> None:
    if (most := t.value("max_samples")) is not None:
        t.put("data.max_rows", most * data_sets, "max_samples")
        t.means.append(
            "max_samples: there the first rows of each data set; here data.max_rows counts all rows of the stage, those that "
            "are held out included, chosen by what they say."
        )
        if data_sets > 1:
            t.to_do.append(
                f"max_samples: {most} of each of {data_sets} data sets there; data.max_rows: {most * data_sets} here is of all "
                f"their rows together, so that a large data set gives more of them than a small one. To train on {most} of "
                "each, cut the files themselves, and leave data.max_rows out."
            )
    if t.value("streaming"):
        t.put("data.streaming", True, "streaming")
    if (mix := t.value("mix_strategy")) and mix != "concat" and t.value("interleave_probs") is None:
        t.drop("mix_strategy", "without probabilities all rows of all parts are trained on")
    elif mix:
        t.drop("mix_strategy", "is not needed: weights, or none, say it")


def _learned(t: Translation) -> None:
    for key, learn in (("train_on_prompt", "everything"), ("mask_history", "last")):
        if t.value(key) and t.stage == "sft":
            t.put("data.learn", learn, key)
        elif t.value(key):
            t.drop(key, "this stage has answers to compare, and learns nothing else")
    if t.value("dataset_dir"):
        t.drop("dataset_dir", "stands in data.path")
