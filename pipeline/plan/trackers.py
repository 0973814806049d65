"""The trackers that a stage reports to: whether their packages are there, and whether they could log."""

import importlib.util
import os
from collections.abc import Iterator
from typing import Any

from pipeline import installing
from pipeline.wording import not_among

# The modules of the trackers that transformers reports to, where their names differ from the trackers'.
TRACKERS = {
    name: name
    for name in "clearml codecarbon comet_ml dagshub dvclive kubeflow mlflow neptune swanlab tensorboard trackio "
    "wandb".split()
} | {"azure_ml": "azureml", "flyte": "flytekit"}
EXTRAS = ("tensorboard", "wandb")  # those that come pinned
# Those whose packages ask for other versions than the pinned ones.
CLASHES = {"trackio": "pillow below 13", "swanlab": "protobuf below 7"}


def asked(report_to: object) -> list[str]:
    """The trackers that a value of train.report_to names."""
    named = report_to if isinstance(report_to, list) else [report_to]
    return [name for name in dict.fromkeys(named) if name not in (None, "none")]


def missing(stage: str, report_to: object) -> Iterator[tuple[str, str]]:
    """(what is wrong, how to mend it) of the trackers that a stage reports to."""
    for name in asked(report_to):
        said = f"{stage}: train.report_to: {name}"
        if name == "all":
            yield f"{said} would send to whatever is installed.", "Name the trackers: train.report_to: [tensorboard]."
        elif name not in TRACKERS:
            what = not_among(name, ("none", *sorted(TRACKERS)))
            yield f"{stage}: train.report_to: {what}.", "Name a tracker, or set train.report_to: none."
        elif importlib.util.find_spec(TRACKERS[name]) is None:
            yield f"{said} is not installed.", f"{_install(name)}, or set train.report_to: none."
        elif name == "wandb" and (wrong := _silent()):
            yield (
                f"{said} {wrong}.",
                "Log in (.venv/bin/wandb login, or WANDB_API_KEY), set WANDB_MODE=offline to keep it on this machine, "
                "or set train.report_to: none.",
            )


def _install(name: str) -> str:
    if name in EXTRAS:
        return f"Install it ({installing.extra(name)})"
    if name in CLASHES:
        return f"It needs {CLASHES[name]}, which the pinned versions are not: take {' or '.join(EXTRAS)}"
    return f"Install it ({installing.package(TRACKERS[name])})"


def _silent() -> str | None:
    """Why W&B could not log, as its own settings have it; nothing is sent to find out."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read when it is imported
    import wandb
    from wandb.sdk import wandb_setup
    from wandb.sdk.lib import wbauth

    try:
        settings = wandb_setup.singleton().settings  # wandb.setup() would start its service
        if settings.mode == "disabled":
            return "does nothing: W&B is switched off here (WANDB_MODE or its settings say disabled)"
        # Without a prompt, and only looked for, not kept or sent.
        keys: dict[str, Any] = {"host": settings.base_url, "source": "align", "prompt": False, "update_session": False}
        if settings.mode == "online" and wbauth.authenticate_session(**keys) is None:
            return f"has no key for {settings.base_url}"
    except wandb.Error as error:
        return f"cannot log: {' '.join(str(error).split()).rstrip('.')}"
    return None
