"""Where a model comes from: the manifests of its stages, parents first, here and as strangers may read them.

A manifest tells where things lie on this machine, and quotes rows. `public` leaves that out and keeps all that is hashed:
`inputs`, of which the fingerprint is the digest, and in them the parent's weights by theirs. So the chain of what is
published can be checked link by link, down to the base, and against the original manifest wherever that is at hand.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePath

from pipeline.artifact.attempt import Attempt
from pipeline.artifact.digests import Digests, canonical, weights_sha256
from pipeline.artifact.manifest import MANIFEST
from pipeline.errors import PipelineError
from pipeline.plan.parents import where_it_lies

FILE = "lineage.json"  # in a published folder
SCHEMA = 1
_AS_THEY_ARE = """schema stage fingerprint inputs head output weights_sha256 steps kept tokens seconds peak_bytes versions
    metrics how confusion judge finished files""".split()
_OF_THE_RUN = ("backend", "device", "gpu", "processes", "threads", "attention")


@dataclass(frozen=True)
class Ancestor:
    """What a stage was trained on: `attempt` is None where it is not an artifact of this pipeline, or not at hand."""

    role: str  # "policy" or "reward"
    stage: str | None
    sha256: str  # of its weights, as the child says
    attempt: Attempt | None


def parents(attempt: Attempt) -> Iterator[Ancestor]:
    """What a stage was trained on, as far as it is at hand. Nothing of it is checked."""
    for role, said in attempt.manifest["parents"].items():
        above = Attempt(Path(where_it_lies(said["folder"], attempt)).parent)
        yield Ancestor(role, said["stage"], said["sha256"], above if above.finished else None)


def chain(attempt: Attempt) -> list[Attempt]:
    """A stage and all the stages at hand that it stands on, each after its own parents."""
    found: dict[Path, Attempt] = {}
    for above in parents(attempt):
        if above.attempt:
            found |= {one.folder.resolve(): one for one in chain(above.attempt)}
    return [*(found | {attempt.folder.resolve(): attempt}).values()]


def public(manifest: dict) -> dict:
    """A manifest without paths of this machine and without rows of the data."""
    said = {key: manifest[key] for key in _AS_THEY_ARE if key in manifest}
    settings = manifest["evaluation"]["settings"]
    score, judge = settings.get("score_function"), settings.get("judge")
    return said | {
        "data": {
            "files": [
                {"name": path if path.startswith("hub:") else PurePath(path).name, "sha256": what}
                for path, what in manifest["data"]["files"].items()
            ],
            "rows": manifest["data"]["rows"],
        },
        "parents": {
            role: {"stage": one["stage"], "sha256": one["sha256"]} for role, one in manifest["parents"].items()
        },
        "base": {"identity": manifest["base"]["identity"], "commit": manifest["base"]["commit"]},
        "run": {key: manifest["run"][key] for key in _OF_THE_RUN if key in manifest["run"]},
        "evaluation": {
            "sha256": manifest["evaluation"]["sha256"],
            "settings": settings
            | {"score_function": score and PurePath(score).name}
            | ({"judge": judge | {"url": None}} if judge else {}),
        },
        "manifest_sha256": digest(manifest),
    }


def public_export(said: dict, proof: dict) -> dict:
    """The record of an export, and the figures of its proof without the prompts that it quotes."""
    kept = {
        key: said[key] for key in ("format", "options", "from", "proven", "seconds", "versions", "finished", "files")
    }
    return kept | {"proof": _figures(proof) | {key: proof[key] for key in ("of", "runtime", "limits") if key in proof}}


def _figures(value: dict) -> dict:
    """Its numbers, and those in what it holds."""
    kept = {key: _figures(one) if isinstance(one, dict) else one for key, one in value.items()}
    return {
        key: one
        for key, one in kept.items()
        if one is None or isinstance(one, int | float) or (isinstance(one, dict) and one)
    }


def of_export(said: dict, runs: Path) -> Attempt | None:
    """The artifact that an export was made from, where it is in `runs`."""
    source = said["from"]
    if "stage" not in source:
        return None
    for path in sorted(runs.glob(f"*/{source['stage']}/{source['fingerprint']}*/{MANIFEST}")):
        with suppress(PipelineError):
            if Attempt(path.parent).manifest["weights_sha256"] == source["weights_sha256"]:
                return Attempt(path.parent)
    return None


def original(said: dict, runs: Path) -> Attempt | None:
    """The attempt whose manifest a published one was made from, where it is at hand."""
    for path in sorted(runs.glob(f"*/{said['stage']}/{said['fingerprint']}*/{MANIFEST}")):
        with suppress(PipelineError):
            if digest(Attempt(path.parent).manifest) == said["manifest_sha256"]:
                return Attempt(path.parent)
    return None


def base_at_hand(lineage: dict, runs: Path) -> Path | None:
    """The base of an adapter, where a stage of its lineage made it and is in `runs`."""
    for one in lineage["stages"]:
        if lineage["base"]["identity"] == {"sha256": one["weights_sha256"]} and (found := original(one, runs)):
            return found.output
    return None


def is_other_base(lineage: dict, source: str, digests: Digests) -> bool:
    """Whether a local model is another than the lineage's adapter was trained on. False where digests do not say."""
    told = lineage["base"]["identity"].get("sha256")
    if told is None or not Path(source).is_dir():
        return False
    # What a stage made is known without its tokenizer_config, what a recipe named with it.
    return told not in [weights_sha256(Path(source), digests, also) for also in ((), ("tokenizer_config.json",))]


def digest(manifest: dict) -> str:
    """As the manifest has it of itself."""
    return sha256(canonical(manifest)).hexdigest()


def sealed(lineage: dict) -> dict:
    """With a digest of itself."""
    lineage = {"schema": SCHEMA} | lineage
    return lineage | {"sha256": digest(lineage)}


def read(folder: Path) -> dict:
    """The lineage in a published folder. Raises PipelineError where it was changed or is none."""
    path = folder / FILE
    fix = "Take it from where it was published once more."
    try:
        lineage = json.loads(path.read_text(encoding="utf-8"))
        if lineage.pop("sha256") != digest(lineage):
            raise PipelineError(f"{path}: was changed after it was written: its digest does not match.", fix)
        if lineage["schema"] != SCHEMA:
            raise PipelineError(f"{path}: has schema {lineage['schema']}; this version reads {SCHEMA}.", fix)
        if wrong := [name for name in lineage["files"] if PurePath(name).is_absolute() or ".." in PurePath(name).parts]:
            raise PipelineError(f"{path}: names a file that is not in its folder: {wrong[0]}.", fix)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise PipelineError(f"{path}: is no lineage of this pipeline.", fix) from None
    return lineage
