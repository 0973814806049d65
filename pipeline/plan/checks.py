"""What can be looked at before anything is planned: the files and functions that a recipe names, its trackers."""

from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

from pipeline import installing
from pipeline.data.read.files import TABLES, TEXTS, container, files_of
from pipeline.data.source import Data
from pipeline.errors import PipelineError
from pipeline.model import attention
from pipeline.model.backend import has_gpu
from pipeline.plan import methods, trackers
from pipeline.plan.memory import card as cards
from pipeline.plan.step import CONTINUE, EVALUATE, RUN, Step
from pipeline.recipe import effect, function, texts
from pipeline.recipe.fields import effective, is_listed
from pipeline.recipe.recipe import Recipe
from pipeline.reward.verifiable import missing_library
from pipeline.stage import specs

SEPARATED = {*TEXTS, *TABLES} - {".txt"}  # files whose rows stand apart by themselves
# What a field of the trainer needs beside the pinned packages: its module and its package. train/loop/arguments.py refuses to go without.
_PACKAGES = {"use_liger_kernel": ("liger_kernel", "liger-kernel"), "use_vllm": ("vllm", "vllm")}


def trackers_ready(recipe: Recipe, steps: Iterable[Step]) -> None:
    """Before anything is run: what the trackers would be told is lost without them. Raises PipelineError."""
    wrong = dict(one for step in steps for one in trackers_missing(recipe, step))
    if wrong:
        raise PipelineError("\n".join(wrong), "\n".join(dict.fromkeys(wrong.values())))


def trackers_missing(recipe: Recipe, step: Step) -> Iterator[tuple[str, str]]:
    """(what is wrong, how to mend it) of the trackers of a stage that is to be trained or evaluated."""
    if step.state in (RUN, CONTINUE, EVALUATE):
        yield from trackers.missing(step.stage, recipe.stage(step.stage).train.get("report_to"))


def notes(recipe: Recipe, step: Step) -> Iterator[str]:
    """What a stage that is to be trained says to no purpose, or could not do on this machine."""
    for what, _ in trackers_missing(recipe, step):
        yield f"{what.removeprefix(f'{step.stage}: ').rstrip('.')}, and a run stops there"
    if step.state not in (RUN, CONTINUE):
        return
    config, written = specs()[step.stage].config, recipe.stage(step.stage).train
    if is_listed(config):
        yield from effect.notes(effective(config, written), written)
    if found := attention.obstacle(recipe.model.attn_implementation, gpu=has_gpu()):
        yield f"model.attn_implementation: {found[0]}"
    if recipe.model.dtype == "bfloat16" and (card := cards.own()) and card.half != "bfloat16":
        whole = methods.tuning(recipe, step.stage, step.parent)[0].whole
        instead = "float32 trains the weights themselves" if whole else f"it has {card.half}"
        yield f"model.dtype: {card.name} has no bfloat16, and what stands in for it is slow; {instead}"
    if found := methods.not_here(recipe, step, gpu=has_gpu()):
        yield found[0]
    for key, (module, package) in _PACKAGES.items():
        if written.get(key) and find_spec(module) is None:
            yield f"train.{key}: the package {package} is not installed, and the run needs it"


def not_there(data: Data) -> list[PipelineError]:
    """An error for each source whose files are not there."""
    found = []
    for source in data.sources:
        try:
            files_of(source)
        except PipelineError as error:
            found.append(error)
    return found


def _idle(data: Data) -> Iterator[PipelineError]:
    """What cannot take effect on the files that are there."""
    files: list[list[str]] = []
    for source in data.sources:
        try:
            files.append(files_of(source))
        except PipelineError:
            continue
        if source.revision != "main" and not source.data_sets():
            said = f"data.revision: {', '.join(source.paths)}: only data sets of the hub have revisions."
            yield PipelineError(said, "Leave it out.")
    if len(files) < len(data.sources):
        return
    # The parts of a mixture are read each in its own way; else held-out rows of their own are read like the others.
    apart = zip(data.sources, files, strict=True) if data.mixture else [(data, chain.from_iterable(files))]
    for source, some in apart:
        if source.separator is not None and all(container(file) in SEPARATED for file in some):
            said = f"data.separator: {', '.join(source.paths)}: only plain texts are parted by one."
            yield PipelineError(said, "Leave it out.")


def files_there(recipe: Recipe, names: Iterable[str], *, data: bool = True) -> None:
    """All missing files of all stages at once; without `data` not those of their rows."""
    missing, fixes = [], []
    for name in names:
        stage = recipe.stage(name)
        for error in (*(not_there(stage.data) if data else ()), *_idle(stage.data)):
            missing.append(f"{name}: {error.what}")
            fixes.append(error.fix)
        keys = {"evaluation.score_function": stage.evaluation.score_function}
        keys |= {reward.key: reward.function for reward in stage.rewards if reward.is_in_file}
        for reward in stage.rewards:
            if package := None if reward.is_in_file else missing_library(reward.function):
                missing.append(f"{name}: {reward.key}: {reward.function} needs {package}, which is not installed.")
                fixes.append(f"Install it with `{installing.extra(reward.function)}`.")
        for package in texts.missing(stage.evaluation.text):
            missing.append(f"{name}: evaluation.text: needs {package}, which is not installed.")
            fixes.append(f"Install it with `{installing.extra(texts.EXTRA)}`.")
        for key, one in keys.items():
            if one and (wrong := function.problem(one)):
                missing.append(f"{name}: {key}: {wrong}")
                fixes += [function.FIX] if Path(one.rpartition(":")[0]).is_file() else []
    if missing:
        raise PipelineError(
            f"{recipe.path}:\n  " + "\n  ".join(missing),
            "\n".join(dict.fromkeys(fixes)) or "Paths are relative to the folder you run in.",
        )
