"""The files of a data set of the hub: which they are at one commit, and each one when it is to be read."""

import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pipeline.data.read import splits
from pipeline.data.read.files import hidden, refuse_unknown
from pipeline.errors import PipelineError
from pipeline.hub import Repository, asking, cached_folder, commit_of

_NUMBERED = re.compile(r"(.+)-(\d{5})-of-(\d{5})(.*)")


@dataclass(frozen=True)
class HubFile:
    """One file of a data set at one commit; `name` is its path in the repository."""

    repository: str
    commit: str
    name: str

    @property
    def place(self) -> str:
        return f"hub:{self.repository}@{self.commit[:8]}/{self.name}"

    def downloaded(self) -> str:
        """Where it lies in the local hub cache, after a download if it has to be."""
        from huggingface_hub import hf_hub_download

        with asking(self.place):
            return hf_hub_download(self.repository, self.name, repo_type="dataset", revision=self.commit)


def of_split(repository: Repository, config: str | None, split: str | None) -> list[HubFile]:
    """The files of one split, in the order in which `datasets` reads them; none is downloaded yet.

    Raises PipelineError where the hub cannot be asked, where there are several splits and none is named,
    and for files of a kind that is not read here.
    """
    name, commit = repository.name, commit_of(repository)
    where = f"hub:{name}@{commit[:8]}"
    chosen = splits.choose(where, _splits(name, commit), config, split)
    refuse_unknown(where, chosen)
    return [HubFile(name, commit, file) for file in chosen]


@cache
def _splits(name: str, commit: str) -> splits.Splits:
    where = f"hub:{name}@{commit[:8]}"
    names, folder = _listed(name, commit, where)
    if f"{name.rpartition('/')[2]}.py" in names:
        raise PipelineError(
            f"{where}: is made by a script, and nobody's script is run here.", "Use a data set that consists of files."
        )
    cards = {card: folder / card for card in splits.CARDS if (folder / card).is_file()}
    return splits.tell_apart(where, names, cards)


def _listed(name: str, commit: str, where: str) -> tuple[list[str], Path]:
    """The names of all files at the commit, and the cache's folder, which has the cards at least.

    The names stay in the cache with them, so that without a network no file is missed that was not downloaded.
    """
    from huggingface_hub import HfApi, snapshot_download

    folder = cached_folder(name, "dataset") / "snapshots" / commit
    try:
        with asking(where):
            # Downloads no more than the cards, but keeps the names of all files.
            snapshot_download(name, repo_type="dataset", revision=commit, allow_patterns=list(splits.CARDS))
            names = _kept_names(name, commit)
            if names is None:  # the cache would not take them
                names = HfApi().list_repo_files(name, repo_type="dataset", revision=commit)
    except PipelineError:
        if not folder.is_dir() or _kept_names(name, commit) is not None:
            raise
        # No network, and a program that keeps no names filled the cache: it has what it has.
        names = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
        _refuse_missing_parts(where, names)
    return sorted(name for name in names if not hidden(Path(name))), folder


def _kept_names(name: str, commit: str) -> list[str] | None:
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        return [file.path for file in get_cached_repo_tree(name, repo_type="dataset", revision=commit)]
    except CachedRepoTreeNotFoundError:
        return None


def _refuse_missing_parts(where: str, names: list[str]) -> None:
    """Of train-00000-of-00003.parquet and so on, where the cache may not have them all."""
    parts = defaultdict(set)
    for name in names:
        if found := _NUMBERED.fullmatch(name):
            parts[found[1], int(found[3]), found[4]].add(found[2])
    for (start, number, _), there in parts.items():
        if len(there) < number:
            raise PipelineError(
                f"{where}: the local cache has only {len(there)} of the {number} files of {start}.",
                "Download the rest: run once with a network.",
            )
