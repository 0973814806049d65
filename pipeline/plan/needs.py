"""What a stage will need later and can be looked at now: weights, trackers, room on the disk. Light, but for `room`."""

import importlib.util
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.recipe.fields import not_among

# The modules of the trackers that transformers reports to, where their names differ from the trackers'.
TRACKERS = {
    name: name
    for name in "clearml codecarbon comet_ml dagshub dvclive kubeflow mlflow neptune swanlab tensorboard trackio "
    "wandb".split()
} | {"azure_ml": "azureml", "flyte": "flytekit"}
# What a checkpoint holds beside the trained weights, in their size: AdamW's two moments, unless the optimizer spares them.
MOMENTS, SPARING = 2, ("8bit", "4bit", "adafactor", "sgd", "galore", "apollo", "lion", "adalomo", "lomo")


def trackers(stage: str, report_to: object) -> Iterator[tuple[str, str]]:
    """(what is wrong, how to mend it) of the trackers that a stage reports to."""
    named = report_to if isinstance(report_to, list) else [report_to]
    for name in [name for name in named if name not in (None, "none", "all")]:
        if name not in TRACKERS:
            what = not_among(name, ("none", "all", *sorted(TRACKERS)))
            yield f"{stage}: train.report_to: {what}.", "Name a tracker, or set train.report_to: none."
        elif importlib.util.find_spec(TRACKERS[name]) is None:
            yield (
                f"{stage}: train.report_to: {name} is not installed.",
                f"Install it (.venv/bin/python -m pip install {TRACKERS[name]}), or set train.report_to: none.",
            )


def weights(folder: Path) -> str | None:
    """Why a model's folder has no weights that can be loaded, or None."""
    if (index := folder / "model.safetensors.index.json").is_file():
        try:
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError, OSError):
            return f"{index.name} cannot be read"
        missing = sorted(name for name in named if not (folder / name).is_file())
        return f"{len(missing)} of its {len(named)} weight files are missing: {missing[0]}" if missing else None
    if any(folder.glob("*.safetensors")):
        return None
    pickled = next((path.name for path in sorted([*folder.glob("*.bin"), *folder.glob("*.pt*")])), None)
    if pickled:
        return f"has its weights only in {pickled}, a pickle, which is never opened"
    return "has a config.json but no weights (*.safetensors)"


def room(model, optimizer: str, checkpoints: int, folder: Path, stages: Iterable[str]) -> None:
    """Refuse to train where the disk has no room for what the stages will keep.

    `checkpoints` is how many each keeps; the later stages are taken to train as much as the `model` of the first.
    Raises PipelineError with both sizes.
    """
    stages = list(stages)
    trained = sum(one.numel() * one.element_size() for one in model.parameters() if one.requires_grad)
    moments = 0 if any(word in optimizer for word in SPARING) else MOMENTS
    # One checkpoint more: the new one is whole before an old one goes.
    needed = len(stages) * trained * ((checkpoints + 1) * (1 + moments) + 1)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise PipelineError(
            f"{folder}: {', '.join(stages)} will keep about {_size(needed)} of checkpoints and weights; "
            f"{_size(free)} are free.",
            "Make room, choose another --runs folder, or keep fewer checkpoints with train.save_total_limit.",
        )


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
