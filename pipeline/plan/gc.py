"""What may be thrown away: what no recipe at hand resolves to, no artifact stands on and no process works on.

What the recipe resolves to is planned, as `run` would. Where that cannot be told (a stage before it is still to be
built, a file is missing) every attempt that might be it stays. Other recipes can name an artifact of this one only by
its folder, so their text is looked through; one with the same name shares the folder, and is planned as well.
"""

import re
import shutil
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifact import command
from pipeline.artifact.attempt import ROWS, Attempt, all_attempts, point_latest
from pipeline.artifact.lock import held
from pipeline.errors import PipelineError
from pipeline.plan.changed import changes
from pipeline.plan.planner import Planner
from pipeline.plan.step import Step
from pipeline.recipe.reading import load_recipe
from pipeline.recipe.recipe import Recipe
from pipeline.stage import specs

RECIPES = Path("recipes")
SHOWN = 3  # differences of an artifact, its own before those that only follow from its parents
INHERITED = r"(policy|reward|base)\b"


@dataclass(frozen=True)
class Unneeded:
    """An attempt that can go."""

    attempt: Attempt
    what: str
    by_option: bool  # made by more than the recipe as it is written: it goes only when all are asked for


class Garbage:
    """What of the artifacts of one recipe can go. `notes` says what could not be read and is kept therefore."""

    def __init__(self, recipe: Recipe, runs: Path):
        self.recipe, self.runs = recipe, runs
        self.folder = runs / recipe.name
        self.planner = Planner(recipe, runs)
        self.notes: list[str] = []
        self.every = _every(runs)
        self._kept: set[Path] = set()
        self._open: set[str] = set()  # stages of which it is not known what the recipe resolves to
        self._texts = [recipe.path.read_text(encoding="utf-8", errors="replace")]
        self._resolved = self._resolve(self.planner)  # by stage, as the recipe stands
        for path in self._others():
            self._look_through(path)

    def unneeded(self, everything: bool) -> list[Unneeded]:
        """The attempts that can go, children before what they stand on.

        With `everything` also those made by options.
        """
        own = [one for one in self.every if one.folder.parent.parent == self.folder and not self._stays(one)]
        going = [one for one in map(self._judged, own) if everything or not one.by_option]
        while True:
            folders = {one.attempt.folder for one in going}
            needed = _Needed([one for one in self.every if one.folder not in folders])
            rescued = [one for one in going if one.attempt in needed]
            if not rescued:
                break
            going = [one for one in going if one not in rescued]
        order = [*reversed(specs()), *{_stage(one.attempt) for one in going} - {*specs()}]
        return sorted(going, key=lambda one: order.index(_stage(one.attempt)))

    def point_latest(self) -> None:
        """A `latest` whose attempt is gone points to what the recipe resolves to, or goes too."""
        for stage in self.folder.glob("*/"):
            latest = stage / "latest"
            if latest.is_symlink() and not latest.exists():
                latest.unlink()
                step = self._resolved.get(stage.name)
                if step and step.known_attempt.finished:
                    point_latest(step.known_attempt)

    def _resolve(self, planner: Planner) -> dict[str, Step]:
        """Keep what a recipe resolves to, stage by stage: a mistake in one says nothing of the others."""
        found = {}
        for name in planner.recipe.stages:
            try:
                step = planner.plan([name])[-1]
            except PipelineError as error:
                self._leave_open(name, f"{planner.recipe.path}: {name} cannot be planned ({error.what})")
                continue
            named = (step.attempt, *(one.attempt for one in (step.parent, step.reward) if one))
            self._kept |= {one.folder.resolve() for one in named if one}
            if step.inputs is None:
                self._leave_open(name, f"{planner.recipe.path}: what {name} resolves to is not known yet ({step.why})")
            else:
                found[name] = step
        return found

    def _leave_open(self, name: str, why: str) -> None:
        self._open.add(name)
        if all_attempts(self.folder / name):
            self.notes.append(f"{why}: all its attempts stay.")

    def _others(self) -> list[Path]:
        """The other recipes at hand: those beside this one, those in recipes/, and those that made an artifact."""
        beside = [*self.recipe.path.parent.glob("*.y*ml"), *RECIPES.glob("*.y*ml")]
        recorded = [Path(made.recipe) for one in self.every if (made := command.of(one))]
        found = {path.resolve() for path in (*beside, *recorded) if path.is_file()}
        return sorted(found - {self.recipe.path.resolve()})

    def _look_through(self, path: Path) -> None:
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            self.notes.append(f"{path}: cannot be read ({error.strerror}); what it names is not known.")
            text = ""
        self._texts.append(text)
        if text and not re.search(r"^[\s{\"']*stages\b", text, re.MULTILINE):
            return  # YAML of something else
        try:
            other = load_recipe(path)
        except PipelineError as error:
            said = re.search(r"^name:\s*[\"']?([\w.-]+)", text, re.MULTILINE)
            mine = (said[1] if said else path.stem) == self.recipe.name
            self.notes.append(
                f"{error.what.splitlines()[0]}. So that recipe cannot be read; "
                + ("it has this one's name: all attempts stay." if mine else "what it names stays.")
            )
            if mine:
                self._open |= {stage.name for stage in self.folder.glob("*/")}
            return
        if other.name == self.recipe.name:
            self._resolve(Planner(other, self.runs))

    def _stays(self, attempt: Attempt) -> bool:
        if _stage(attempt) in self._open or attempt.folder.resolve() in self._kept or held(attempt):
            return True
        latest = attempt.folder.parent / "latest"
        names = [attempt.folder.name]
        if latest.is_symlink() and latest.resolve() == attempt.folder.resolve():
            names.append(f"{self.recipe.name}/{_stage(attempt)}/latest")
        return any(name in text for name in names for text in self._texts)

    def _judged(self, attempt: Attempt) -> Unneeded:
        step = self._resolved.get(_stage(attempt))
        if attempt.finished and step and attempt.folder.name.partition("-")[0] == step.fingerprint:
            return Unneeded(attempt, f"finished, {step.known_attempt.folder.name} is in its place", by_option=False)
        if not attempt.finished and not attempt.checkpoints():
            return Unneeded(attempt, "unfinished, without a checkpoint", by_option=False)
        made, own = command.of(attempt), str(self.recipe.path.resolve())
        if made is None:
            what = "made by a command that was not recorded"
        elif made.recipe != own:
            what = f"made by {made.recipe}"
        else:
            what = f"made with {' '.join(made.options)}" if made.options else "made when the recipe was another"
        by_option = made is None or made.recipe != own or bool(made.options)
        done = "finished" if attempt.finished else "unfinished"
        return Unneeded(attempt, f"{done}, {what}{self._differing(attempt, step)}", by_option)

    def _differing(self, attempt: Attempt, step: Step | None) -> str:
        """Which keys made it another artifact than the recipe's."""
        if step is None:
            return " (the recipe has no such stage)" if _stage(attempt) in specs() else " (a run of a trial)"
        if attempt.inputs is None or step.inputs is None:
            return ""
        found = list(changes(self.planner.contents, step.stage, step.inputs, attempt.inputs))
        found.sort(key=lambda change: re.match(INHERITED, change) is not None)
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        return f" ({'; '.join(found[:SHOWN])}{more})" if found else ""


class _Needed:
    """What some attempts stand on: their parents, and the models below their adapters."""

    def __init__(self, attempts: list[Attempt]):
        self._folders: set[tuple[str, ...]] = set()
        self._weights: set[str] = set()
        self._starting = False
        for attempt in attempts:
            if not self._by_manifest(attempt):
                self._by_inputs(attempt)

    def __contains__(self, attempt: Attempt) -> bool:
        if attempt.folder.parts[-2:] in self._folders:
            return True
        if not attempt.finished:
            return False
        try:
            return self._starting or attempt.manifest["weights_sha256"] in self._weights
        except PipelineError:
            return False

    def _by_manifest(self, attempt: Attempt) -> bool:
        """By (stage, fingerprint), not by whole paths: runs/ may have been moved since."""
        if not attempt.finished:
            return False
        try:
            manifest = attempt.manifest
        except PipelineError:
            return False
        self._folders |= {Path(parent["folder"]).parts[-3:-1] for parent in manifest["parents"].values()}
        source = Path(manifest["base"]["source"] or "").parts[-3:-1]
        if source != attempt.folder.parts[-2:]:
            self._folders.add(source)
        return True

    def _by_inputs(self, attempt: Attempt) -> None:
        """What is unfinished, or damaged, by the weights that it was begun with."""
        inputs = attempt.inputs
        if inputs is None:
            self._starting |= held(attempt)  # it has not said yet what it stands on
            return
        base = inputs.get("base") or {}
        self._weights |= {one for one in (inputs.get("policy"), inputs.get("reward"), base.get("sha256")) if one}


def _every(runs: Path) -> list[Attempt]:
    return [attempt for stage in sorted(runs.glob("*/*/")) for attempt in all_attempts(stage)]


def _stage(attempt: Attempt) -> str:
    return attempt.folder.parent.name


def unused_rows(runs: Path, going: Container[Path] = ()) -> list[Path]:
    """Prepared rows that no artifact was trained on, but for those `going`; none while a stage runs, for it may be
    using them."""
    attempts = _every(runs)
    if any(held(attempt) for attempt in attempts):
        return []
    used = {name for attempt in attempts if attempt.folder not in going for name in _prepared(attempt)}
    return [folder for folder in sorted((runs / ROWS).glob("*")) if folder.name not in used]


def _prepared(attempt: Attempt) -> Iterator[str]:
    if attempt.finished:
        try:
            yield attempt.manifest["data"].get("prepared")
        except PipelineError:
            return


def size(folder: Path) -> int:
    """In bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def remove(folder: Path) -> None:
    """With what TensorBoard shows of it."""
    shutil.rmtree(Attempt(folder).curves, ignore_errors=True)
    shutil.rmtree(folder)
