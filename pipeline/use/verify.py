"""Is it what it says? What digests prove of an artifact or of what was published, and what is only claimed."""

import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.artifact.attempt import Attempt
from pipeline.artifact.digests import Digests, file_sha256, weights_sha256
from pipeline.artifact.manifest import MANIFEST
from pipeline.errors import PipelineError
from pipeline.hub import asking
from pipeline.plan.parents import where_it_lies
from pipeline.use import finding, lineage
from pipeline.use.export import EXPORT, PROOF, Export
from pipeline.use.finding import OPEN, PROVEN, WRONG, Finding
from pipeline.use.verify_published import published

_READ = ("*.safetensors", "*.gguf", "*.onnx", "*.data", "*.json", "*.jinja", "*.txt", "*.model", "*.md", "Modelfile")


def verify(folder: Path, runs: Path) -> Iterator[Finding]:
    """What can be said of an artifact's or a published folder. `runs` is where originals of what was published may be.

    Raises PipelineError for a folder that is neither.
    """
    if (folder / lineage.FILE).is_file():
        return _as_far_as_it_can_be_read(published(folder, runs))
    if (folder / EXPORT).is_file():
        return _export(Export(folder.resolve()), runs)
    attempt = Attempt(folder if (folder / MANIFEST).is_file() else folder.resolve().parent)
    if attempt.finished:
        return _artifact(attempt)
    raise PipelineError(
        f"{folder}: has neither {MANIFEST} nor {lineage.FILE}, so it says nothing that could be verified.",
        "Name the folder of a finished stage, or of what `align publish` wrote.",
    )


def _artifact(attempt: Attempt) -> Iterator[Finding]:
    try:
        said = attempt.manifest
    except PipelineError as error:
        yield Finding(WRONG, MANIFEST, error.what)
        return
    yield Finding(PROVEN, MANIFEST, "was not changed since it was written: its digest matches")
    yield finding.files(attempt.folder, said["files"], f"files of {said['stage']}")
    yield from finding.weights(attempt.output, said)
    yield finding.inputs(said)
    yield from _parents(attempt, set())
    yield from finding.base(attempt.output, said, where_it_lies(said["base"]["source"], attempt))
    yield _data(said)
    yield from finding.claims([said])


def _as_far_as_it_can_be_read(findings: Iterator[Finding]) -> Iterator[Finding]:
    """What somebody else wrote may be anything."""
    try:
        yield from findings
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        yield Finding(WRONG, lineage.FILE, f"cannot be read on: {type(error).__name__}: {error}")


def _export(export: Export, runs: Path) -> Iterator[Finding]:
    try:
        said = export.said
    except PipelineError as error:
        yield Finding(WRONG, EXPORT, error.what)
        return
    yield Finding(PROVEN, EXPORT, "was not changed since it was written: its digest matches")
    yield finding.files(export.folder, said["files"])
    yield _proof(said, export.proof if (export.folder / PROOF).is_file() else None)
    beside = Attempt(export.folder.parent.parent)
    attempt = beside if beside.finished else lineage.of_export(said, runs)
    if attempt is None:
        yield Finding(
            OPEN, "made from", f"{said['name']} (weights {said['from']['weights_sha256'][:16]}) is not at hand"
        )
        return
    yield finding.made_from(said, attempt.manifest)
    yield from _artifact(attempt)


def _proof(said: dict, proof: dict | None) -> Finding:
    """Whether the proof is of these very files: their digests and its own are in one record."""
    if proof is None or PROOF not in said["files"]:
        return Finding(WRONG, "proof", f"{PROOF} is missing: nothing says that this is what was trained")
    if proof.get("proven") != said["proven"]:
        return Finding(WRONG, "proof", f"{PROOF} and {EXPORT} say different things")
    if not said["proven"]:
        return Finding(OPEN, "proof", "it failed, and --force kept the export all the same")
    return Finding(PROVEN, "proof", f"belongs to these files; that it was so on {proof['prompts']} prompts is claimed")


def _parents(attempt: Attempt, seen: set[Path]) -> Iterator[Finding]:
    """What a stage was trained on, down to the first: each is hashed afresh, once."""
    child = attempt.manifest
    for above in lineage.parents(attempt):
        what = f"{above.role} of {child['stage']}"
        if above.attempt is None:
            yield Finding(
                OPEN, what, f"{above.stage or 'an adapter of elsewhere'} (weights {above.sha256[:16]}) is not at hand"
            )
            continue
        try:
            if above.attempt.folder.resolve() not in seen:
                above.attempt.check_content()
            theirs = weights_sha256(above.attempt.output, Digests())
        except PipelineError as error:
            yield Finding(WRONG, what, error.what)
            continue
        if theirs == above.sha256 == child["inputs"].get(above.role):
            yield Finding(PROVEN, what, f"{above.attempt.folder}: its weights have the digest that the inputs name")
        else:
            said = f"{above.attempt.folder}: its weights ({theirs[:16]}) are not those that it was trained on ({above.sha256[:16]})"
            yield Finding(WRONG, what, said)
        if above.attempt.folder.resolve() not in seen:
            seen.add(above.attempt.folder.resolve())
            yield finding.inputs(above.attempt.manifest)
            yield from _parents(above.attempt, seen)


def _data(said: dict) -> Finding:
    """The files of a stage's rows, as far as they are still where they were."""
    gone, changed = [], []
    for name, what in said["data"]["files"].items():
        if name.startswith("hub:"):
            continue
        if not Path(name).is_file():
            gone.append(name)
        elif file_sha256(Path(name)) != what[:64]:
            changed.append(name)
    if changed:
        return Finding(OPEN, "data", f"{', '.join(changed)}: changed since it was trained")
    if gone:
        return Finding(OPEN, "data", f"{', '.join(gone)}: not where it was")
    return Finding(PROVEN, "data", "the files are still those that were read")


def of_hub(name: str) -> tuple[Path, list[Finding]]:
    """A repository, hub:owner/name or hub:owner/name@revision, in the cache, and what of it was not downloaded.

    No pickle and no code is. Raises PipelineError where it cannot be had.
    """
    from huggingface_hub import HfApi, constants, snapshot_download

    found = re.fullmatch(r"hub:([\w.-]+/[\w.-]+)(?:@(\S+))?", name)
    if not found:
        raise PipelineError(
            f"{name}: is no repository of the hub.", "Write it as hub:owner/name, or hub:owner/name@revision."
        )
    with asking(name):
        folder = Path(snapshot_download(found[1], revision=found[2], allow_patterns=_READ))
        if constants.HF_HUB_OFFLINE:
            return folder, []
        files = HfApi().model_info(found[1], revision=found[2], timeout=30).siblings or ()
    left = sorted(one.rfilename for one in files if not (folder / one.rfilename).exists())
    left = [one for one in left if one != ".gitattributes"]
    told = f"{', '.join(left)}: in the repository, and not covered by what was published"
    return folder, [Finding(OPEN, "not downloaded", told)] if left else []
