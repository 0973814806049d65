"""What verifying can find, and what it looks at in everything: files, weights, inputs, the base."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.artifact.digests import Digests, file_sha256, fingerprint, weights_sha256
from pipeline.hub import cached_folder
from pipeline.use import lineage

PROVEN, WRONG, OPEN, CLAIMED = "proven", "wrong", "not checked", "claimed"


@dataclass(frozen=True)
class Finding:
    state: str
    what: str
    said: str

    def to_json(self) -> dict:
        return asdict(self)


def files(folder: Path, listed: dict, what: str = "files") -> Finding:
    for name, said in listed.items():
        path = folder / name
        if not path.is_file():
            return Finding(WRONG, what, f"{path} is missing")
        if path.stat().st_size != said["size"]:
            return Finding(WRONG, what, f"{path} is {path.stat().st_size} bytes, not {said['size']}")
        if file_sha256(path) != said["sha256"]:
            return Finding(WRONG, what, f"{path} was changed: its digest differs")
    total = sum(said["size"] for said in listed.values())
    return Finding(PROVEN, what, f"{len(listed)} files, {total:,} bytes, are what was written: their digests match")


def weights(folder: Path, said: dict) -> Iterator[Finding]:
    if weights_sha256(folder, Digests()) == said["weights_sha256"]:
        yield Finding(
            PROVEN, "weights", f"tensors, tokenizer and template are those of {said['stage']} {said['fingerprint']}"
        )
    else:
        yield Finding(WRONG, "weights", f"are not those that {said['stage']} {said['fingerprint']} ended with")


def inputs(said: dict) -> Finding:
    what = f"inputs of {said['stage']}"
    if fingerprint(said["inputs"]) == said["fingerprint"]:
        return Finding(PROVEN, what, f"are those that the fingerprint {said['fingerprint']} stands for")
    return Finding(WRONG, what, f"have the fingerprint {fingerprint(said['inputs'])}, not {said['fingerprint']}")


def made_from(said: dict, manifest: dict) -> Finding:
    source, name = said["from"], f"{manifest['stage']} {manifest['fingerprint']}"
    if source["weights_sha256"] == manifest["weights_sha256"]:
        return Finding(PROVEN, "made from", f"{name}: its weights have the digest that the export names")
    return Finding(WRONG, "made from", f"{name} has other weights than those that were exported")


def base(folder: Path, said: dict, source: str | None) -> Iterator[Finding]:
    """The base that an adapter stands on: the same one, and whether the adapter loads on it."""
    if not (folder / "adapter_config.json").is_file():
        return
    identity, commit = said["base"]["identity"], said["base"]["commit"]
    local = Path(source) if source else None
    if local and local.is_dir() and "sha256" in identity:
        same = not lineage.is_other_base({"base": said["base"]}, source, Digests())
        said_of = (
            f"{source} {'is the base that it was trained on' if same else 'is not the base that it was trained on'}"
        )
        yield Finding(PROVEN if same else WRONG, "base", said_of)
    elif source and commit:
        here = (cached_folder(source) / "snapshots" / commit).is_dir()
        yield Finding(CLAIMED, "base", f"{source} at commit {commit[:12]}{', which the cache has' if here else ''}")
    else:
        yield Finding(OPEN, "base", f"SHA-256 {identity.get('sha256', '')[:16]} is not at hand")
        return
    yield _fit(folder, source, commit, said["head"])


def _fit(folder: Path, source: str, commit: str | None, head: str) -> Finding:
    from safetensors import SafetensorError

    from pipeline.use.fits import complaint

    try:
        wrong = complaint(folder, source, commit, head)
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)  # it may be anybody's
        return Finding(OPEN, "fit", f"whether the adapter loads on the base cannot be tried: {first}")
    return Finding(WRONG if wrong else PROVEN, "fit", wrong or "every tensor of the adapter has its place in the base")


def claims(stages: list[dict]) -> Iterator[Finding]:
    names = ", ".join(one["stage"] for one in stages)
    yield Finding(CLAIMED, "figures", f"before and after {names}: nothing was measured again")
    yield Finding(CLAIMED, "rows", "how many were read, trained, held out and dropped, and what was in them")
    yield Finding(
        CLAIMED, "who made it", "digests show that nothing was changed, not by whom it was made: nothing is signed"
    )
