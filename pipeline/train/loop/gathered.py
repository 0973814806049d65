"""What a trainer has gathered for the next line of its log, and counted from the start: a checkpoint between two lines keeps
it, or the first line of a resumed run would be of the steps since then alone.
"""

from collections.abc import Iterator

from transformers import Trainer

# The figures of each step since the last line, by mode: TRL's trainers, and its experimental ones.
BY_MODE = ("_metrics", "_stored_metrics")
# What is counted: transformers' sum of the losses that are in no line yet, the step of the last line, the sum of all before
# it, and TRL's tokens.
COUNTED = ("_total_loss_scalar", "_globalstep_last_logged", "_total_train_tokens")


def gathered(trainer: Trainer) -> dict:
    """As JSON values, which give back every float as it was."""
    return {
        "loss": trainer._tr_loss.item(),
        "counted": {name: getattr(trainer, name) for name in COUNTED if hasattr(trainer, name)},
        "figures": {name: [float(value) for value in values] for name, values in _figures(trainer)},
    }


def give_back(trainer: Trainer, kept: dict) -> None:
    """To a trainer that has just begun: transformers starts counting with every process."""
    trainer._tr_loss.fill_(kept["loss"])
    for name, value in kept["counted"].items():
        setattr(trainer, name, value)
    for attribute in BY_MODE:
        if hasattr(trainer, attribute):
            getattr(trainer, attribute)["train"].update(kept["figures"])


def _figures(trainer: Trainer) -> Iterator[tuple[str, list]]:
    for attribute in BY_MODE:
        yield from getattr(trainer, attribute, {}).get("train", {}).items()
