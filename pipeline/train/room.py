"""Whether the disk has room for what the stages will keep."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.model.counted import numbers

# What a checkpoint holds beside the trained weights, in their size: AdamW's two moments, unless the optimizer spares them.
MOMENTS, SPARING = 2, ("8bit", "4bit", "adafactor", "sgd", "galore", "apollo", "lion", "adalomo", "lomo")


def check(
    model, optimizer: str, checkpoints: int, folder: Path, stages: Iterable[str], best: int = 0, again: int = 0
) -> None:
    """Refuse to train where the disk has no room for what the stages will keep.

    `checkpoints` is how many each keeps, `best` how many weights beside them, and `again` how often a checkpoint has the
    weights once more; the later stages are taken to train as much as the `model` of the first.
    Raises PipelineError with both sizes.
    """
    stages = list(stages)
    held = [one for one in model.parameters() if one.requires_grad]
    trained = sum(numbers(one) * one.element_size() for one in held)
    moments = 0 if any(word in optimizer for word in SPARING) else MOMENTS
    # One checkpoint more: the new one is whole before an old one goes.
    needed = len(stages) * trained * ((checkpoints + 1) * (1 + moments + again) + 1 + best)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise PipelineError(
            f"{folder}: {', '.join(stages)} will keep about {_size(needed)} of checkpoints and weights; "
            f"{_size(free)} are free.",
            "Make room, choose another --runs folder, or keep fewer checkpoints with train.save_total_limit.",
        )


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
