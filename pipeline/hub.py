"""Repositories of the hub: which commit a revision means, and where the local cache keeps them."""

import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifact.writing import write_json
from pipeline.errors import PipelineError

COMMIT = re.compile(r"[0-9a-f]{40}")
_DATA_SET = re.compile(r"hub:(?P<name>\w[\w.-]*(?:/\w[\w.-]*)?)(?:@(?P<revision>\S+))?")
_RECORDS = {"model": "base.json", "dataset": "data.json"}  # in the recipe's folder in runs/


@dataclass(frozen=True)
class Repository:
    kind: str  # "model" or "dataset", as the hub calls them
    name: str
    revision: str = "main"

    def at(self, commit: str) -> str:
        """The path that names the data set at one commit."""
        return f"hub:{self.name}@{commit}"


def data_set(path: str, revision: str = "main") -> Repository | None:
    """The data set that a path means: hub:owner/name, or hub:owner/name@revision; None for a path of this machine.

    Raises PipelineError for what begins like one and is none.
    """
    if not path.startswith("hub:"):
        return None
    if not (found := _DATA_SET.fullmatch(path)):
        raise PipelineError(
            f"{path}: is no data set of the hub.", "Write it as hub:owner/name; its files are chosen by data.split."
        )
    return Repository("dataset", found["name"], found["revision"] or revision)


def known_commit(repository: Repository, folder: Path | None) -> str | None:
    """The commit as far as it is known without a network: named, recorded in the recipe's `folder`, or in the cache."""
    if COMMIT.fullmatch(repository.revision):
        return repository.revision
    return _recorded(repository, folder) or _cached(repository)


def settle(repository: Repository, folder: Path) -> None:
    """Record the commit, asking the hub where it is not known: the recipe stays on it from then on.

    Raises PipelineError where the hub cannot be asked.
    """
    if COMMIT.fullmatch(repository.revision) or _recorded(repository, folder):
        return
    commit = _cached(repository) or _asked(repository)
    folder.mkdir(parents=True, exist_ok=True)
    others = [one for one in _records(repository, folder) if not _is(one, repository)]
    entry = {"id": repository.name, "revision": repository.revision, "commit": commit}
    write_json(folder / _RECORDS[repository.kind], [*others, entry])


def pinned(paths: Iterable[str], revision: str, folder: Path | None) -> list[str]:
    """The paths, each data set of the hub at its commit; the hub is asked where that is not known, nothing is recorded."""
    return [one.at(commit_of(one, folder)) if (one := data_set(path, revision)) else path for path in paths]


def commit_of(repository: Repository, folder: Path | None = None) -> str:
    """The commit; the hub is asked where it is not known, and nothing is recorded."""
    return known_commit(repository, folder) or _asked(repository)


def cached_folder(name: str, kind: str = "model") -> Path:
    """Where the local hub cache keeps a repository."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    return Path(os.environ.get("HF_HUB_CACHE", home / "hub")) / f"{kind}s--{name.replace('/', '--')}"


@contextmanager
def asking(what: str) -> Iterator[None]:
    """What goes wrong between here and the hub, as a PipelineError about `what`."""
    import httpx
    from huggingface_hub import errors

    try:
        yield
    except (OSError, httpx.HTTPError, errors.HFValidationError) as error:
        if isinstance(error, errors.GatedRepoError):
            why = "it is gated, and access has to be asked for on its page"
        elif isinstance(error, errors.RepositoryNotFoundError):
            why = "there is no such repository, or it is private"
        elif isinstance(error, errors.RevisionNotFoundError):
            why = "it has no such revision"
        else:
            why = next(iter(str(error).splitlines()), type(error).__name__)
        raise PipelineError(
            f"{what}: the hub cannot be asked: {why}",
            "Check the name and the network (HF_ENDPOINT names a mirror of the hub), log in with `hf auth login` where it is "
            "gated, or name a local folder.",
        ) from None


def _asked(repository: Repository) -> str:
    from huggingface_hub import HfApi

    key = "data.path: hub:" if repository.kind == "dataset" else "model.id: "
    with asking(f"{key}{repository.name}@{repository.revision}"):
        ask = HfApi().dataset_info if repository.kind == "dataset" else HfApi().model_info
        return str(ask(repository.name, revision=repository.revision, timeout=30).sha)


def _recorded(repository: Repository, folder: Path | None) -> str | None:
    if folder is None:
        return None
    return next((one["commit"] for one in _records(repository, folder) if _is(one, repository)), None)


def _records(repository: Repository, folder: Path) -> list[dict]:
    try:
        known = json.loads((folder / _RECORDS[repository.kind]).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return known if isinstance(known, list) else [known]  # one model alone was once written without the list


def _is(record: dict, repository: Repository) -> bool:
    return (record.get("id"), record.get("revision")) == (repository.name, repository.revision)


def _cached(repository: Repository) -> str | None:
    """The commit that the local hub cache has for the revision; read directly, as importing the hub's client is slow."""
    reference = cached_folder(repository.name, repository.kind) / "refs" / repository.revision
    return reference.read_text().strip() if reference.is_file() else None
