"""What was published, verified: by its lineage alone, and by the originals as far as they are at hand."""

import json
from collections.abc import Iterator
from pathlib import Path

from pipeline.artifact.attempt import Attempt
from pipeline.errors import PipelineError
from pipeline.use import finding, lineage
from pipeline.use.finding import CLAIMED, OPEN, PROVEN, WRONG, Finding
from pipeline.use.known import CARD
from pipeline.use.publication import ADAPTER_CONFIG, BASE_KEYS
from pipeline.use.verify_card import card

_NOT_OURS = {
    CARD,
    lineage.FILE,
    ".gitattributes",
    ".cache",
}  # the card is looked at by itself; the hub writes the others


def published(folder: Path, runs: Path) -> Iterator[Finding]:
    try:
        said = lineage.read(folder)
        stages = said["stages"]
    except PipelineError as error:
        yield Finding(WRONG, lineage.FILE, error.what)
        return
    yield Finding(PROVEN, lineage.FILE, "was not changed since it was written: its digest matches")
    yield finding.files(folder, said["files"])
    yield card(folder, said)
    if other := sorted({path.name for path in folder.iterdir()} - said["files"].keys() - _NOT_OURS):
        yield Finding(OPEN, "other files", f"{', '.join(other)}: beside what was published, and not covered by it")
    originals = [lineage.original(one, runs) for one in stages]
    if "export" in said:
        yield from _published_export(said)
    else:
        yield from finding.weights(folder, stages[-1])
        yield _rewritten(folder, said, originals[-1])
    for one in stages:
        yield finding.inputs(one)
    yield from _links(stages)
    yield from (_original(one, found, runs) for one, found in zip(stages, originals, strict=True))
    base, local = said["base"], lineage.base_at_hand(said, runs)
    yield from finding.base(folder, stages[-1] | {"base": base}, base["repository"] or (local and str(local)))
    yield from finding.claims(stages)


def _published_export(said: dict) -> Iterator[Finding]:
    """The files are those that were exported and proven, and that of the last stage."""
    export = said["export"]
    yield finding.made_from(export, said["stages"][-1])
    other = [name for name, file in said["files"].items() if export["files"].get(name) != file]
    if other:
        yield Finding(WRONG, "proof", f"is of other files: {', '.join(other)} differ from what was exported")
    elif not export["proven"]:
        yield Finding(WRONG, "proof", "it failed")
    else:
        told = f"is of these very files; that they were what was trained on {export['proof']['prompts']} prompts is claimed"
        yield Finding(PROVEN, "proof", told)


def _rewritten(folder: Path, said: dict, original: Attempt | None) -> Finding:
    """Files that are not those of the artifact: where the base lies is said otherwise to others, and nothing else."""
    last, what = said["stages"][-1], "written for others"
    changed = [
        name
        for name, file in said["files"].items()
        if last["files"].get(f"{last['output']}/{name}", file)["sha256"] != file["sha256"]
    ]
    if not changed:
        return Finding(PROVEN, what, "nothing: every file is as the artifact has it")
    if changed != [ADAPTER_CONFIG]:
        return Finding(WRONG, what, f"{', '.join(changed)}: not as the artifact had them")
    if original is None:
        return Finding(CLAIMED, what, f"{ADAPTER_CONFIG}, to say where the base is; the artifact's own is not in runs/")
    ours, theirs = (json.loads((one / ADAPTER_CONFIG).read_text(encoding="utf-8")) for one in (folder, original.output))
    same = {**ours, **dict.fromkeys(BASE_KEYS)} == {**theirs, **dict.fromkeys(BASE_KEYS)}
    return Finding(
        PROVEN if same else WRONG,
        what,
        f"{ADAPTER_CONFIG}, which differs {'only in where the base is' if same else 'in more'}",
    )


def _links(stages: list[dict]) -> Iterator[Finding]:
    """Whether the stages of a lineage name each other, by what their fingerprints stand for."""
    for number, child in enumerate(stages):
        known = {one["weights_sha256"]: one["stage"] for one in stages[:number]}
        for role, above in child["parents"].items():
            what, named = f"{role} of {child['stage']}", child["inputs"].get(role)
            if above["sha256"] != named or (above["stage"] and known.get(named) not in (above["stage"], None)):
                yield Finding(WRONG, what, "the inputs name other weights than the lineage")
            elif named in known:
                yield Finding(PROVEN, what, f"is {known[named]}, as its inputs say (weights {named[:16]})")
            elif above["stage"]:
                yield Finding(WRONG, what, f"its inputs name weights ({named[:16]}) that no stage of the lineage has")
            else:
                yield Finding(OPEN, what, f"an adapter of elsewhere, SHA-256 {named[:16]}")


def _original(said: dict, found: Attempt | None, runs: Path) -> Finding:
    what = f"manifest of {said['stage']}"
    if found is None:
        return Finding(OPEN, what, f"the original is not in {runs}; its digest is {said['manifest_sha256'][:16]}")
    if lineage.public(found.manifest) == said:
        return Finding(PROVEN, what, f"says what {found.folder} says")
    return Finding(WRONG, what, f"says something else than {found.folder}")
