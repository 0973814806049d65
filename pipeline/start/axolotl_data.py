"""Axolotl's data sets, to paths, columns and splits here."""

import re
from collections.abc import Mapping
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.start.translation import Translation
from pipeline.start.written import flow

KEYS = "datasets pretraining_dataset test_datasets val_set_size train_on_inputs streaming".split()
_FILE = re.compile(r"\.(jsonl?|csv|tsv|parquet|arrow|txt)(\.(gz|zst|bz2))?$", re.IGNORECASE)
_ON_THE_HUB = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_FIELDS = {
    "field_instruction": "instruction",
    "field_input": "input",
    "field_output": "output",
    "field_system": "system",
    "field_prompt": "prompt",
    "field_chosen": "chosen",
    "field_rejected": "rejected",
    "field_tools": "tools",
    "field_completion": "completion",
    "field_label": "label",
    "field": "text",
    "text_column": "text",
}
# Columns that a type knows by itself, and that go by another name here.
_TYPES = {
    "intel": {"prompt": "question"},
    "argilla": {"prompt": "instruction", "chosen": "chosen_response", "rejected": "rejected_response"},
}
_KNOWN = ("alpaca", "chat_template", "completion", "pretrain", "sharegpt", "bradley_terry.chat_template")
_KEPT = {"path", "name", "split", "type", "data_files", "revision", "field_messages", "ds_type", *_FIELDS}
_QUIET = {"message_property_mappings", "trust_remote_code", "roles_to_train", "train_on_eos", "train_on_eot"}
# What is learned of a conversation there where nothing is said, which is what is learned here.
_LEARNED = {"roles_to_train": {"assistant", "gpt", "model"}, "train_on_eos": {"turn"}, "train_on_eot": {"turn"}}
_USUAL = ({"role": "role", "content": "content"}, {"role": "from", "content": "value"})


def _entries(t: Translation, key: str) -> list[dict]:
    found = t.value(key, [])
    found = found if isinstance(found, list) else [found]
    return [one if isinstance(one, dict) else {"path": str(one)} for one in found]


def is_plain_text(t: Translation) -> bool:
    types = [str(one.get("type", "")) for one in _entries(t, "datasets")]
    return bool(t.value("pretraining_dataset")) or (bool(types) and all(one == "completion" for one in types))


def translate(t: Translation) -> None:
    key = "pretraining_dataset" if t.value("pretraining_dataset") else "datasets"
    entries = _entries(t, key)
    if not entries:
        raise PipelineError(
            f"{t.source.file}: datasets is missing: there is nothing to train on.", "Name them there first."
        )
    parts = [_part(t, one) for one in entries]
    if len(parts) == 1:
        for name, value in parts[0].items():
            t.put(f"data.{name}", value, key)
    else:
        t.put("data.mixture", parts, key)
    if key == "pretraining_dataset" and t.value("max_steps"):
        t.put("data.streaming", True, key)
    _held_out(t)
    if t.value("train_on_inputs") and t.stage == "sft":
        t.put("data.learn", "everything", "train_on_inputs")


def _part(t: Translation, entry: Mapping) -> dict:
    name = str(entry.get("path", ""))
    files = entry.get("data_files")
    local = Path(name).exists() or _FILE.search(name) or name.startswith((".", "/", "~"))
    if local or (name in ("json", "csv", "parquet", "text") and files):
        part = {"path": files if files and not _FILE.search(name) and not Path(name).is_dir() else name}
    elif not _ON_THE_HUB.fullmatch(name):
        part = {"path": name}
        t.to_do.append(f"datasets: path: {name}: is neither a file nor a data set of the hub (owner/name): say which.")
    else:
        part = {"path": f"hub:{name}", "split": entry.get("split") or "train"}
        part |= {"config": entry["name"]} if entry.get("name") else {}
        part |= {"revision": entry["revision"]} if entry.get("revision") else {}
        if files:
            t.to_do.append(
                f"{name}: data_files: {files}: name those files of the data set; see data.config and data.split."
            )
    if columns := _columns(t, entry):
        part["columns"] = columns
    for key, usual in _LEARNED.items():
        said = entry.get(key)
        if said is not None and not set(map(str, said if isinstance(said, list) else [said])) <= usual:
            t.to_do.append(
                f"datasets: {name}: {key}: {flow(said)}: here every answer is learned, through the token that ends it; "
                "data.learn: everything learns all of a row, last only the last answer."
            )
    for key in sorted(entry.keys() - _KEPT - _QUIET):
        if entry[key] not in (None, False, "", [], {}):
            t.means.append(
                f"datasets: {name}: {key}: {entry[key]} is not taken over; see whether `align data check` reads the rows."
            )
    return part


def _columns(t: Translation, entry: Mapping) -> dict[str, str]:
    kind = entry.get("type")
    said = dict(kind) if isinstance(kind, Mapping) else {}
    columns = {} if said or not kind else dict(_TYPES.get(str(kind).rpartition(".")[2], {}))
    columns |= {ours: str(both[key]) for both in (said, entry) for key, ours in _FIELDS.items() if both.get(key)}
    if prompt := said.get("system_prompt"):
        t.to_do.append(
            f"type: system_prompt: {prompt}: a row has its own system prompt here; one for all rows stands in a model.template of "
            "your own."
        )
    if formats := [key for key in said if key.endswith("format") and said[key]]:
        t.means.append(
            f"type: {', '.join(formats)}: prompts are written by the chat template here, not by a format of the data."
        )
    if (
        kind
        and not said
        and str(kind) not in _KNOWN
        and str(kind).rpartition(".")[2] not in (*_TYPES, "default", "ultra")
    ):
        t.to_do.append(f"type: {kind}: how rows are written is recognized here; see with `align data check`.")
    mapping = entry.get("message_property_mappings")
    if mapping and {key: mapping.get(key) for key in ("role", "content")} not in _USUAL:
        t.to_do.append(
            f"message_property_mappings: {dict(mapping)}: messages have role and content here, or from and value."
        )
    if turns := entry.get("field_messages"):
        if "chosen" in columns or t.stage in ("dpo", "orpo", "simpo", "reward"):
            columns["prompt"] = str(turns)
        elif turns not in ("messages", "conversations", "conversation"):
            columns["messages"] = str(turns)
    return {ours: theirs for ours, theirs in columns.items() if ours != theirs}


def _held_out(t: Translation) -> None:
    if tests := _entries(t, "test_datasets"):
        parts = [_part(t, one) for one in tests]
        kept = {key: value for key, value in parts[0].items() if key != "columns"}
        t.put("data.held_out", kept["path"] if kept.keys() == {"path"} else kept, "test_datasets")
        if len(parts) > 1:
            t.to_do.append("test_datasets: only the first is held out; data.held_out takes a list of files.")
    else:
        t.share_held_out("val_set_size")
