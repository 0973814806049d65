"""What a card says beyond the lineage: where it goes, and what the base's and the data sets' own cards say of them."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.hub import cached_folder

CARD = "README.md"


@dataclass(frozen=True)
class Known:
    repository: str  # owner/name, as others will load it
    license: str | None = None  # of what is published, as its author says
    licenses: dict[str, str] = field(default_factory=dict)  # of repositories of the hub, by their names
    languages: tuple[str, ...] = ()


def known(lineage: dict, repository: str, license: str | None, api=None) -> Known:
    """From the cards in the hub's cache, and, with the hub's client as `api`, from the hub; what is nowhere stays unknown."""
    licenses: dict[str, str] = {}
    languages: list[str] = []
    for kind, name, commit in dict.fromkeys(_repositories(lineage)):
        said = _in_cache(kind, name, commit) or (_asked(api, kind, name, commit) if api else {})
        if isinstance(said.get("license"), str):
            licenses[name] = said["license"]
        if kind == "dataset":
            spoken = said.get("language") or []
            languages += [spoken] if isinstance(spoken, str) else spoken
    return Known(repository, license, licenses, tuple(dict.fromkeys(map(str, languages))))


def _repositories(lineage: dict) -> Iterator[tuple[str, str, str | None]]:
    if name := lineage["base"]["repository"]:
        yield "model", name, lineage["base"]["commit"]
    for one in lineage["stages"]:
        for file in one["data"]["files"]:
            if file["name"].startswith("hub:"):
                name, _, commit = file["sha256"].removeprefix("hub:").partition("@")
                yield "dataset", name, commit


def _in_cache(kind: str, name: str, commit: str | None) -> dict:
    from huggingface_hub import ModelCard

    file = cached_folder(name, kind) / "snapshots" / str(commit) / CARD
    try:
        return ModelCard(file.read_text(encoding="utf-8"), ignore_metadata_errors=True).data.to_dict()
    except (OSError, ValueError):
        return {}


def _asked(api, kind: str, name: str, commit: str | None) -> dict:
    import httpx

    try:
        said = api.repo_info(name, repo_type=kind, revision=commit, timeout=10).card_data
        return said.to_dict() if said else {}
    except (OSError, ValueError, httpx.HTTPError):
        return {}  # a license that is not known is told as such
