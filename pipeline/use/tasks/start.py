"""What a policy started from: the policy of the stage before, or the bare base."""

import json
from dataclasses import replace
from pathlib import Path

from pipeline.artifact.benchmarks import ELSEWHERE, FOLDER
from pipeline.artifact.digests import Digests, fingerprint, weights_sha256
from pipeline.plan.parents import Parents, where_it_lies
from pipeline.recipe.recipe import Recipe
from pipeline.use.subject import BASE, Subject, find

_OF_ITS_PLACE = {"base_model_name_or_path", "revision"}


def start_of(subject: Subject, recipe: Recipe, runs: Path) -> tuple[Subject | None, str]:
    """(what the subject was trained from, why there is none)."""
    if subject.attempt is None:
        return None, "it was not made by this pipeline, so what it started from is not known"
    said = subject.manifest
    if parent := said["parents"].get("policy"):
        folder = Path(where_it_lies(parent["folder"], subject.attempt))
        if not folder.is_dir():
            return None, f"{folder}, which it was trained from, is not there"
        if weights_sha256(folder, Digests(runs / ".digests.json")) != parent["sha256"]:
            return None, f"{folder} is no longer what it was trained from"
        found = find(str(folder), recipe, runs).checked()
        return replace(found, name=parent["stage"] or folder.name), ""
    if said["output"] != "model":
        return replace(subject.without_adapter, note=""), ""
    began = said["inputs"].get("base") or {}
    if "config" in began:
        return None, "it was made from scratch, so there is nothing before it"
    base = Parents(recipe, runs / recipe.name, Digests(runs / ".digests.json")).named_base()
    if base.identity != began:
        return None, f"the base that it was trained from is not the one that {recipe.path} names"
    model = subject.model.model_copy(update={"id": base.source})
    return replace(subject, name=BASE, base=base, model=model, bare=True, attempt=None), ""


def identity(subject: Subject) -> dict:
    """A policy by content: its weights, tokenizer and template, what they stand on, and how that is loaded.

    Where any of it lies is not part of it.
    """
    digests = Digests()
    base = subject.base.identity
    if base is None:
        local = Path(subject.base.source)
        base = {"sha256": weights_sha256(local, digests)} if local.is_dir() else {"id": subject.base.source}
    words = [subject.folder / name for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")]
    loading = {key: getattr(subject.model, key) for key in ("dtype", "load_in_4bit", "load_in_8bit")}
    return {
        "weights": None if subject.bare else weights_sha256(subject.folder, digests),
        "adapter": _adapter(subject.folder) if subject.is_adapter else None,
        "base": base if subject.bare or subject.is_adapter else None,
        "words": {path.name: digests.of(path) for path in words if path.is_file()},
        **loading,
    }


def _adapter(folder: Path) -> dict:
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    return {key: value for key, value in config.items() if key not in _OF_ITS_PLACE}


def place_of(subject: Subject, runs: Path) -> Path:
    """The folder in which its results are kept."""
    if subject.attempt:
        return subject.attempt.folder / FOLDER
    return runs / ELSEWHERE / fingerprint(identity(subject))
