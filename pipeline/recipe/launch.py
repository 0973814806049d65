"""How many processes a stage is trained by, and what they have in common: how it is run, never what is trained."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator

from pipeline.recipe.fields import effective
from pipeline.section import Section
from pipeline.stage import Spec
from pipeline.wording import must_be

DDP = "ddp"
EACH, PASSES, SLICES = "per_device_train_batch_size", "gradient_accumulation_steps", "steps_per_generation"


def _processes(value: object) -> object:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError(must_be("a number of processes or auto (one for each GPU)", value))


class Launch(Section):
    """One process for each GPU, or so many; `strategy` is what each of them holds."""

    processes: Annotated[int | str, BeforeValidator(_processes)] = 1
    strategy: Literal["ddp"] = DDP

    @property
    def size(self) -> int:
        """How many processes that is on this machine."""
        return max(visible_gpus(), 1) if self.processes == "auto" else self.processes

    @property
    def words(self) -> str:
        """What a plan says of it; nothing of one process."""
        return f", with {self.size} processes ({self.strategy})" if self.size > 1 else ""


def visible_gpus() -> int:
    """How many NVIDIA GPUs a process may use here, told without torch."""
    there = [path for path in Path("/dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)]
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return len(there)
    return min(len([one for one in named.split(",") if one.strip() not in ("", "-1")]), len(there))


def divided(spec: Spec, given: Mapping[str, object], size: int) -> dict[str, object]:
    """The training arguments of each of so many processes that together make the steps which one would make of `given`.

    The passes of a step are dealt out, or else the rows of each pass. Raises ValueError, with the fix, where neither can be
    without teaching otherwise.
    """
    if size == 1:
        return dict(given)
    values = effective(spec.config, dict(given))
    each, passes, fewer = values[EACH], values[PASSES], 1
    if passes % size == 0 and not spec.piece_of_all:
        split, fewer = {EACH: each, PASSES: passes // size}, size
    elif spec.goes_by_piece(values):
        raise ValueError(f"its loss goes by the rows of each pass, and {PASSES}: {passes} is no multiple of {size}")
    elif each % size == 0 and each // size >= spec.least.get(EACH, 1):
        split = {EACH: each // size, PASSES: passes}
    else:
        raise ValueError(f"{EACH}: {each} and {PASSES}: {passes} cannot be dealt out to {size}")
    if slices := given.get(SLICES):
        if slices % fewer:
            raise ValueError(f"{SLICES}: {slices} is no multiple of {size}")
        split[SLICES] = slices // fewer
    return dict(given) | split
