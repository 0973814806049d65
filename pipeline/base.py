"""The base model a chain stands on: a hub repository at one commit, a local folder by content, or one made from scratch."""

import json
import os
import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from pipeline.artifact import Digests, canonical, weights_sha256, write_json
from pipeline.errors import PipelineError
from pipeline.recipe import Recipe

COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Base:
    """`identity` goes into the fingerprint; `source` is where transformers loads it from, None for a new model."""

    identity: dict | None  # None: a hub repository whose commit is known only once it is asked
    source: str | None
    commit: str | None = None

    @property
    def sha256(self) -> str:
        return sha256(canonical(self.identity)).hexdigest()


def base_of(recipe: Recipe, folder: Path, digests: Digests) -> Base:
    """The base that the recipe names, as far as it is known without a network. `folder` is the recipe's own in runs/."""
    model = recipe.model
    if model.config is not None:
        return Base({"config": model.config, "tokenizer": _tokenizer(model.tokenizer, digests)}, None)
    if is_local(model.id):
        path = Path(model.id).expanduser()
        if not (path / "config.json").is_file():
            what = "has no config.json" if path.is_dir() else "no such folder"
            raise PipelineError(
                f"{recipe.path}: model.id: {model.id}: {what}.",
                "Give a model in Hugging Face form, or a hub id.",
            )
        if (path / "adapter_config.json").is_file():
            raise PipelineError(
                f"{recipe.path}: model.id: {model.id} is an adapter, not a base.",
                "Name its base in model.id, and the adapter as the stage's `policy`.",
            )
        return Base({"sha256": weights_sha256(path, digests, ("tokenizer_config.json",))}, str(path.resolve()))
    commit = model.revision if COMMIT.fullmatch(model.revision) else _recorded(recipe, folder) or _cached(recipe)
    identity = {"id": model.id, "commit": commit} if commit else None
    return Base(identity, model.id, commit)


def is_local(name: str) -> bool:
    return name.startswith(("/", ".", "~")) or Path(name).exists() or name.count("/") > 1


def resolve_commit(recipe: Recipe, folder: Path) -> None:
    """Ask the hub which commit the recipe's revision is, and keep the answer: the chain stays on it from then on."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        commit = HfApi().model_info(recipe.model.id, revision=recipe.model.revision, timeout=30).sha
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError) as error:
        raise PipelineError(
            f"model.id: {recipe.model.id}@{recipe.model.revision}: the hub cannot be asked: {str(error).splitlines()[0]}",
            "Check the name and the network, log in with `hf auth login` where it is gated, or name a local folder.",
        ) from None
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "base.json", {"id": recipe.model.id, "revision": recipe.model.revision, "commit": commit})


def _recorded(recipe: Recipe, folder: Path) -> str | None:
    try:
        known = json.loads((folder / "base.json").read_text(encoding="utf-8"))
        same = (known["id"], known["revision"]) == (recipe.model.id, recipe.model.revision)
        return known["commit"] if same else None
    except (OSError, ValueError, KeyError):
        return None


def _cached(recipe: Recipe) -> str | None:
    """The commit that the local hub cache has for the revision; read directly, as importing the hub's client is slow."""
    reference = cached_folder(recipe.model.id) / "refs" / recipe.model.revision
    return reference.read_text().strip() if reference.is_file() else None


def cached_folder(name: str) -> Path:
    """Where the local hub cache keeps a repository."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    return Path(os.environ.get("HF_HUB_CACHE", home / "hub")) / f"models--{name.replace('/', '--')}"


def _tokenizer(spec, digests: Digests) -> dict:
    if spec.path is None:
        return {"vocab_size": spec.vocab_size}
    file = Path(spec.path) / "tokenizer.json"
    if not file.is_file():
        raise PipelineError(
            f"model.tokenizer.path: {spec.path}: has no tokenizer.json.", "Give a fast tokenizer's folder."
        )
    return {"sha256": digests.of(file)}
