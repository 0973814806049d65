"""What is used: a finished stage of a recipe, or a folder of anybody's, with all that has to be known to load it."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.artifact import command
from pipeline.artifact.attempt import Attempt, all_attempts
from pipeline.artifact.digests import Digests
from pipeline.artifact.manifest import MANIFEST
from pipeline.errors import PipelineError
from pipeline.model.base import Base, is_local, weights
from pipeline.plan.parents import Parents, where_it_lies
from pipeline.plan.planner import Planner
from pipeline.plan.step import EVALUATE, UP_TO_DATE, Parent
from pipeline.recipe.recipe import Recipe
from pipeline.recipe.sections import Model
from pipeline.stage import specs
from pipeline.use import lineage
from pipeline.wording import did_you_mean

SCORE = "score"
BASE = "base"  # the name of what a subject stands on
_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Subject:
    """`folder` holds the weights, the tokenizer and the chat template: an adapter's beside its base, or a whole model's."""

    name: str  # "dpo", or the folder as it was named
    folder: Path
    base: Base  # what the adapter stands on; of a whole model it is the folder itself
    model: Model  # how the base is loaded: dtype, bits, remote code
    head: str = "causal"  # or "score"
    attempt: Attempt | None = None  # None: it was not made by this pipeline
    bare: bool = False  # what is meant is the base alone, asked through the tokenizer and template in `folder`
    note: str = ""  # what a person has to know of how it was found

    @property
    def is_adapter(self) -> bool:
        return not self.bare and (self.folder / "adapter_config.json").is_file()

    @property
    def where(self) -> str:
        """For a person to read."""
        return f"{self.base.source}, without an adapter" if self.bare else _shown(self.folder) + self.note

    def checked(self) -> "Subject":
        """Itself, an adapter of this pipeline only where its files are those that were written: a base takes too long."""
        if self.attempt and self.is_adapter:
            self.attempt.check_content()
        return self

    @property
    def manifest(self) -> dict | None:
        return self.attempt.manifest if self.attempt else None

    def answers(self, what: str) -> "Subject":
        """Itself, where it can answer; a reward model can only score. `what` is what was asked of it: "chat"."""
        if self.head == SCORE:
            raise PipelineError(
                f"{what}: {self.name} is a reward model: it scores answers and gives none.",
                "Name a stage that trains a policy.",
            )
        return self

    @property
    def without_adapter(self) -> "Subject":
        """The base that it stands on, to be asked in the same words."""
        return replace(self, name=BASE, bare=True, attempt=None)


def finished(recipe: Recipe, runs: Path) -> tuple[list[Subject], dict[str, str]]:
    """Every stage of the recipe that is a policy and finished, and of the others why not. Damaged ones raise PipelineError."""
    found, others = [], {}
    for name in recipe.stages:
        if specs()[name].head == SCORE:
            continue
        step = Planner(recipe, runs).plan([name])[-1]
        if step.state in (UP_TO_DATE, EVALUATE):
            found.append(find(name, recipe, runs).checked())
        else:
            others[name] = f"{step.state}: {step.why}"
    if not found:
        raise PipelineError(
            f"{recipe.path}: no stage that gives answers is finished.", f"Train one first: align run -r {recipe.path}"
        )
    return found, others


def all_of(names: Sequence[str], recipe: Recipe, runs: Path, what: str) -> list[Subject]:
    """What a person means by several names, each able to answer; BASE is what the first of the others stands on.

    `what` is what is asked of them: "chat".
    """
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise PipelineError(f"{what}: {twice} is named twice.", "Name each once.")
    others = [name for name in names if name != BASE or BASE in recipe.stages] or [last_policy(recipe, runs)]
    found = {name: find(name, recipe, runs).answers(what).checked() for name in others}
    if BASE in names and BASE not in found:
        first = found[others[0]]
        if not first.is_adapter:
            raise PipelineError(
                f"{what}: {first.name} is a whole model and stands on no base.", f"Name {first.name} alone."
            )
        found[BASE] = first.without_adapter
    return [found[name] for name in names]


def find(name: str, recipe: Recipe, runs: Path) -> Subject:
    """What a person means by `name`: a stage of the recipe, finished as the recipe stands, or else a folder.

    Raises PipelineError for what is neither, is not finished or is damaged. Sizes are checked, not contents.
    """
    if name in recipe.stages:
        return _of_stage(name, recipe, runs)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _of_folder(name, folder, recipe, runs)
    if name in specs():
        raise PipelineError(
            f"{recipe.path}: has no stage {name}{did_you_mean(name, recipe.stages)}.",
            f"It has {', '.join(recipe.stages)}.",
        )
    raise PipelineError(
        f"{name}: is no stage of {recipe.path} and no folder{did_you_mean(name, recipe.stages)}.",
        f"Name a stage ({', '.join(recipe.stages)}), or the folder of an adapter or a model.",
    )


def last_policy(recipe: Recipe, runs: Path) -> str:
    """The stage that is meant where none is named: the last of the recipe that trains a policy and is trained."""
    policies = [name for name in recipe.stages if specs()[name].head != SCORE]
    if not policies:
        raise PipelineError(f"{recipe.path}: has no stage that trains a policy.", "Name a folder.")
    return next((name for name in reversed(policies) if _is_trained(name, recipe, runs)), policies[-1])


def _is_trained(name: str, recipe: Recipe, runs: Path) -> bool:
    """Whether a stage is, as the recipe stands; not where what it stands on is not even there."""
    try:
        return Planner(recipe, runs).plan([name])[-1].state in (UP_TO_DATE, EVALUATE)
    except PipelineError:
        if any(one.finished for one in all_attempts(runs / recipe.name / name)):
            raise  # what was trained is damaged, or cannot be told: no reason to take another in silence
        return False


def _shown(folder: Path) -> str:
    """From here, where it lies below."""
    return str(folder.relative_to(Path.cwd())) if folder.is_relative_to(Path.cwd()) else str(folder)


def _of_stage(name: str, recipe: Recipe, runs: Path) -> Subject:
    step = Planner(recipe, runs).plan([name])[-1]
    if step.state not in (UP_TO_DATE, EVALUATE):
        others = [one for one in all_attempts(runs / recipe.name / name) if one.finished]
        older = (
            f" An older one{_begun(others[0])} is finished: name it by its folder, {others[0].folder}."
            if others
            else ""
        )
        raise PipelineError(
            f"{name}: is not trained as the recipe stands ({step.state}: {step.why}).",
            f"Train it first: {_command(name, recipe, runs)}.{older}",
        )
    return _of_attempt(name, step.attempt, recipe.model.trust_remote_code)


def _command(name: str, recipe: Recipe, runs: Path) -> str:
    """What trains a stage of this very recipe."""
    options = ["-r", str(recipe.path), *(["--runs", str(runs)] if runs != Path("runs") else [])]
    for one in recipe.overrides:
        options += ["--set", one]
    line = shlex.join(["align", "run", name, *options])
    return line if options[2:] or not Path("Makefile").is_file() else f"make {name} RECIPE={recipe.path} ({line})"


def _begun(attempt: Attempt) -> str:
    """What a command had said beside its recipe, for that is the difference then."""
    said = command.of(attempt)
    return f", of a run with {' '.join(said.options)}," if said and said.options else ""


def _of_attempt(name: str, attempt: Attempt, trust_remote_code: bool = False) -> Subject:
    attempt.check_sizes()
    said = attempt.manifest
    base = said["base"]
    source = where_it_lies(base["source"], attempt)
    loaded = said["inputs"]["model"]
    loading = {key: loaded[key] for key in ("dtype", "load_in_4bit", "load_in_8bit") if key in loaded}
    return Subject(
        name=name,
        folder=attempt.output.resolve(),
        base=Base(base["identity"], source, base["commit"]),
        model=Model(id=source, trust_remote_code=trust_remote_code, **loading),
        head=said["head"],
        attempt=attempt,
    )


def _of_folder(name: str, folder: Path, recipe: Recipe, runs: Path) -> Subject:
    attempt = Attempt(folder.resolve() if (folder / MANIFEST).is_file() else folder.resolve().parent)
    if attempt.finished and folder.resolve() in (attempt.folder, attempt.output):
        return _of_attempt(name, attempt)
    if (folder / "adapter_config.json").is_file():
        return _of_adapter(name, folder.resolve(), recipe, runs)
    if not (folder / "config.json").is_file():
        raise _no_model(folder)
    if complaint := weights(folder):
        raise PipelineError(f"{folder}: {complaint}.", "Copy the whole model, as save_pretrained writes it.")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    scores = any("SequenceClassification" in one for one in config.get("architectures") or ())
    base = Base(None, str(folder.resolve()))
    return Subject(
        name, folder.resolve(), base, Model(id=base.source, dtype=_dtype(config)), SCORE if scores else "causal"
    )


def _no_model(folder: Path) -> PipelineError:
    if (folder / "inputs.json").is_file():
        return PipelineError(f"{folder}: is an unfinished attempt at a stage.", "Give its command again to finish it.")
    if attempts := [one for one in all_attempts(folder) if one.finished]:
        return PipelineError(
            f"{folder}: holds the attempts at a stage.", f"Name one of them; the newest is {attempts[0].folder}."
        )
    return PipelineError(
        f"{folder}: holds neither an adapter nor a model.", "Name a folder with adapter_config.json or config.json."
    )


def _of_adapter(name: str, folder: Path, recipe: Recipe, runs: Path) -> Subject:
    """An adapter that was not made here, on the base that it names; where that is not there, on the recipe's.

    One that was published says by its lineage which base it was trained on: no other is taken.
    """
    config, note, digests = Parent(folder, "").adapter_config, "", Digests(runs / ".digests.json")
    named = config.get("base_model_name_or_path")
    published = lineage.read(folder) if (folder / lineage.FILE).is_file() else None
    if published and (made_here := lineage.base_at_hand(published, runs)):
        base = Base(published["base"]["identity"], str(made_here))
    elif named and (not is_local(named) or (Path(named).expanduser() / "config.json").is_file()):
        source = str(Path(named).expanduser().resolve()) if is_local(named) else named
        base = Base(None, source, config.get("revision"))
    elif recipe.model.config is None:
        base = Parents(recipe, runs / recipe.name, digests).named_base()
        why = f"{named}, which it names, is not there" if named else "it names none"
        note = f", on {base.source}, the base of {recipe.path}: {why}"
    else:
        raise PipelineError(
            f"{folder}: its base, {named or 'which it does not name'}, is not there.",
            "Name a recipe (--recipe) whose model.id is the base that it was trained on.",
        )
    if published and lineage.is_other_base(published, base.source, digests):
        raise PipelineError(
            f"{folder}: was trained on another base than {base.source}: {lineage.FILE} names its SHA-256, "
            f"{published['base']['identity']['sha256'][:16]}.",
            "Name a recipe (--recipe) whose model.id is the base that it was trained on.",
        )
    model = recipe.model if recipe.model.id == base.source else Model(id=base.source, dtype=_dtype_of(base))
    head = SCORE if config.get("task_type") == "SEQ_CLS" else "causal"
    return Subject(name, folder, base, model, head, note=note)


def _dtype_of(base: Base) -> str:
    file = Path(base.source) / "config.json"
    return _dtype(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else "bfloat16"


def _dtype(config: dict) -> str:
    """As the weights are stored; Hugging Face wrote the key otherwise before transformers 5."""
    said = config.get("dtype") or config.get("torch_dtype")
    return said if said in _DTYPES else "float32"
