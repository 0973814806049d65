"""The base model a chain stands on: a hub repository at one commit, a local folder by content, or one made from scratch."""

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from pipeline.artifact.digests import Digests, canonical, weights_sha256
from pipeline.errors import PipelineError
from pipeline.hub import Repository, known_commit
from pipeline.recipe.recipe import Recipe


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
        if model.revision != "main":
            raise PipelineError(
                f"{recipe.path}: model.revision: {model.id} is a folder, and only models of the hub have revisions.",
                "Leave it out.",
            )
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
        if complaint := weights(path):
            raise PipelineError(
                f"{recipe.path}: model.id: {model.id}: {complaint}.",
                "Download or copy the whole model, as save_pretrained writes it.",
            )
        return Base({"sha256": weights_sha256(path, digests, ("tokenizer_config.json",))}, str(path.resolve()))
    commit = known_commit(repository_of(recipe), folder)
    identity = {"id": model.id, "commit": commit} if commit else None
    return Base(identity, model.id, commit)


def made_for(named: object, base: Base, digests: Digests) -> bool | None:
    """Whether an adapter of elsewhere, whose base has the name `named`, was made for this one; None: that cannot be told.

    Folders that are both here are compared by their tensors, repositories by their names.
    """
    if not isinstance(named, str) or not named:
        return None
    here, there = Path(base.source), Path(named).expanduser()
    if is_local(named) != here.is_dir():  # a copy mostly keeps the name of what it is a copy of
        return True if there.name.casefold() == here.name.casefold() else None
    if not here.is_dir():
        return named.casefold() == base.source.casefold()
    if there.resolve() == here.resolve():
        return True
    tensors = [{digests.of(file) for file in folder.glob("*.safetensors")} for folder in (here, there)]
    return tensors[0] == tensors[1] if all(tensors) else None


def shown(identity: dict, source: str | None) -> str:
    """A base in an error: what model.id would have to be, with its commit where it has one."""
    if source is None:
        return f"a {identity['config'].get('model_type')} made from model.config"
    return f"{source}@{identity['commit']}" if "commit" in identity else source


def is_local(name: str) -> bool:
    return name.startswith(("/", ".", "~")) or Path(name).exists() or name.count("/") > 1


def repository_of(recipe: Recipe) -> Repository:
    """The base's on the hub, for a recipe whose model.id is no folder."""
    return Repository("model", recipe.model.id, recipe.model.revision)


def _tokenizer(spec, digests: Digests) -> dict:
    if spec.path is None:
        return {"vocab_size": spec.vocab_size}
    file = Path(spec.path) / "tokenizer.json"
    if not file.is_file():
        raise PipelineError(
            f"model.tokenizer.path: {spec.path}: has no tokenizer.json.", "Give a fast tokenizer's folder."
        )
    return {"sha256": digests.of(file)}


def weights(folder: Path) -> str | None:
    """Why a model's folder has no weights that can be loaded, or None."""
    if (index := folder / "model.safetensors.index.json").is_file():
        try:
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError, OSError):
            return f"{index.name} cannot be read"
        missing = sorted(name for name in named if not (folder / name).is_file())
        return f"{len(missing)} of its {len(named)} weight files are missing: {missing[0]}" if missing else None
    if any(folder.glob("*.safetensors")):
        return None
    pickled = next((path.name for path in sorted([*folder.glob("*.bin"), *folder.glob("*.pt*")])), None)
    if pickled:
        return f"has its weights only in {pickled}, a pickle, which is never opened"
    return "has a config.json but no weights (*.safetensors)"


def positions(recipe: Recipe, source: str | None, revision: str | None) -> int | None:
    """How many the model has; `source` is None where it is made from the recipe's config."""
    from transformers import AutoConfig

    if source is None:
        return dict(recipe.model.config).get("max_position_embeddings")
    config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=recipe.model.trust_remote_code)
    return getattr(config.get_text_config(), "max_position_embeddings", None)
