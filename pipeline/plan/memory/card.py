"""The card that a stage is to fit: this machine's own, told without torch, or one of a size that is asked about."""

import os
import shutil
import subprocess
from dataclasses import dataclass

from pipeline.errors import PipelineError
from pipeline.plan.memory.need import GIB

_ASK = ("--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
# Of what a card is sold as, what is there: a 16 GB card has 15.9 GiB or less, and a desktop takes some.
SEEN = 0.98
SIZES = (8, 10, 12, 16, 20, 24, 32, 40, 48, 80, 96, 141, 192, 288)  # GB that cards are sold with


@dataclass(frozen=True)
class Card:
    """A GPU: what it is called, and its memory in bytes."""

    name: str
    bytes: int


def named(gib: float) -> Card:
    """One of so many GB, as cards are sold. Raises PipelineError for a size that none has."""
    if not 1 <= gib <= 2048:
        raise PipelineError(
            f"--gpu {gib:g}: is no size of a card in GB.", "Give what the card is sold with, such as --gpu 16."
        )
    return Card(f"a card of {gib:g} GB", int(gib * GIB * SEEN))


def own() -> Card | None:
    """This machine's first one that may be used; None where there is none, or nobody tells."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    program = shutil.which("nvidia-smi")
    if visible in ("", "-1") or program is None:
        return None
    first = (visible or "0").partition(",")[0]
    try:
        said = subprocess.run(
            [program, *_ASK, "-i", first], capture_output=True, text=True, timeout=10, check=True
        ).stdout
        name, mib = said.strip().splitlines()[0].rsplit(",", 1)
        whole = int(mib) << 20
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
    if cap := os.environ.get("ALIGN_GPU_GIB"):
        whole = min(whole, int(float(cap) * GIB))
    return Card(name.strip(), whole)
