"""Which form of a stage is published: what it left itself, or one of its exports. Nothing else is, and nothing unproven."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from pipeline.artifact.attempt import Attempt
from pipeline.errors import PipelineError
from pipeline.recipe.recipe import Recipe
from pipeline.use.export import EXPORT, EXPORTS, PROOF, Export, exports_of
from pipeline.use.lineage import of_export
from pipeline.use.subject import find
from pipeline.use.usage import ADAPTER, MODEL

# What save_pretrained and the exports write. No pickle and no code is among them.
SUFFIXES = (".safetensors", ".json", ".jinja", ".txt", ".model", ".gguf", ".onnx", ".data")
_NAMES = ("Modelfile",)


@dataclass(frozen=True)
class Chosen:
    """`export` is None where the stage's own adapter or model is meant."""

    attempt: Attempt
    export: Export | None = None

    @property
    def what(self) -> str:
        """ "adapter", "model", or the format of the export."""
        return self.export.said["format"] if self.export else self.attempt.manifest["output"]

    def files(self) -> Iterator[tuple[str, Path]]:
        """(name, where it is) of every file, each hashed again. Raises PipelineError for damage and for what is no model's."""
        if self.export:
            if damage := self.export.damage(content=True):
                raise PipelineError(
                    f"{damage}.", f"The export is damaged. Remove {self.export.folder} and export it again."
                )
            folder, names = self.export.folder, [name for name in self.export.said["files"] if name != PROOF]
        else:
            self.attempt.check_content()
            folder = self.attempt.output
            names = [str(PurePath(name).relative_to(folder.name)) for name in self.attempt.manifest["files"]]
        for name in names:
            if PurePath(name).suffix not in SUFFIXES and PurePath(name).name not in _NAMES:
                raise PipelineError(
                    f"{folder / name}: is no file that belongs to a model, so it is not published.",
                    f"Those are {', '.join((*SUFFIXES, *_NAMES))}.",
                )
            yield name, folder / name


def chosen(name: str, what: str | None, recipe: Recipe, runs: Path) -> Chosen:
    """What a person means by a stage or a folder, and by --what. Raises PipelineError for what is not there or not proven."""
    if (Path(name).expanduser() / EXPORT).is_file():
        found = _by_folder(Export(Path(name).expanduser().resolve()), name, runs)
        if what not in (None, found.what):
            raise PipelineError(f"--what {what}: {name} is a {found.what} export.", "Leave --what out.")
        return _proven(found)
    attempt = find(name, recipe, runs).attempt
    if attempt is None:
        raise PipelineError(
            f"{name}: was not made by this pipeline, so there is no manifest to say what it is.",
            "Name a stage, or the folder of an artifact. Anything else goes to the hub with `hf upload`.",
        )
    own = Chosen(attempt)
    return own if what in (None, own.what) else _proven(_of_format(name, what, attempt))


def _of_format(name: str, what: str, attempt: Attempt) -> Chosen:
    there = exports_of(attempt)
    fits = [one for one in there if one.said["format"] == what]
    if len(fits) == 1:
        return Chosen(attempt, fits[0])
    if fits:
        told = ", ".join(f"{one.folder} ({_options(one)})" for one in fits)
        raise PipelineError(f"--what {what}: {name} has {len(fits)} such exports.", f"Name the folder of one: {told}.")
    if what in (ADAPTER, MODEL):
        raise PipelineError(f"--what {what}: {name} is no such thing, its own is the {attempt.manifest['output']}.", "")
    formats = ", ".join(dict.fromkeys(one.said["format"] for one in there)) or "none"
    raise PipelineError(
        f"--what {what}: {name} has no such export; it has {formats}.",
        f"Make it first: align merge {name}, or align export {name} --format {what}.",
    )


def _by_folder(export: Export, name: str, runs: Path) -> Chosen:
    """An export in the folder of its stage, or elsewhere (--to)."""
    beside = Attempt(export.folder.parent.parent)
    attempt = beside if beside.finished and export.folder.parent.name == EXPORTS else of_export(export.said, runs)
    if attempt is None or attempt.manifest["weights_sha256"] != export.said["from"]["weights_sha256"]:
        raise PipelineError(
            f"{name}: is an export of {export.said['name']}, whose artifact is not in {runs}.",
            "Say where it is with --runs: what it was trained on is told from there.",
        )
    return Chosen(attempt, export)


def _proven(found: Chosen) -> Chosen:
    export = found.export
    if not (export.folder / PROOF).is_file():
        raise PipelineError(
            f"{export.folder}: has no {PROOF}, so nothing says that it is what was trained.", "Export it again."
        )
    if damage := export.damage(content=True):
        raise PipelineError(f"{damage}.", f"The export is damaged. Remove {export.folder} and export it again.")
    if not (export.proven and export.proof.get("proven")):
        differs = "; ".join(line.splitlines()[0] for line in export.proof.get("differs", ()))
        raise PipelineError(
            f"{export.folder}: was kept by --force although its proof fails: {differs}",
            "What is not what was trained is not published. Publish another form.",
        )
    return found


def _options(export: Export) -> str:
    return ", ".join(f"{key} {value}" for key, value in export.said["options"].items())
