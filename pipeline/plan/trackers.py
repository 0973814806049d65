"""The trackers that a stage reports to, and whether their packages are there."""

import importlib.util
from collections.abc import Iterator

from pipeline.wording import not_among

# The modules of the trackers that transformers reports to, where their names differ from the trackers'.
TRACKERS = {
    name: name
    for name in "clearml codecarbon comet_ml dagshub dvclive kubeflow mlflow neptune swanlab tensorboard trackio "
    "wandb".split()
} | {"azure_ml": "azureml", "flyte": "flytekit"}


def missing(stage: str, report_to: object) -> Iterator[tuple[str, str]]:
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
