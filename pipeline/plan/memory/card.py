"""The card that a stage is to fit: this machine's own, told without torch, or one of a size that is asked about."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from functools import cache

from pipeline.errors import PipelineError
from pipeline.plan.memory.need import GIB

_ASK = ("--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits")
# Of what a card is sold as, or nvidia-smi tells of it, what torch finds: the driver keeps some. Of a T4's 15360 MiB it finds 14.56 to
# 14.76 GiB, of an RTX 4090's 24564 MiB 23.64 to 23.68, of an RTX 3080's 10240 MiB 9.78 (from messages in public issues).
SEEN = 0.98
TIGHT = 0.08  # of a card: about what the plan may be off by, and what a desktop takes
_NUMBER = re.compile(r"\d+\.\d+")
AMPERE = 8.0  # the compute capability from which on a card has bfloat16
SIZES = (8, 10, 12, 16, 20, 24, 32, 40, 48, 80, 96, 141, 192, 288)  # GB that cards are sold with
# MiB that nvidia-smi tells of those that people rent and own: some keep a part of what they are sold with to check the rest.
MIB = {
    "T4": 15360,
    "P100": 16384,
    "V100 16GB": 16384,
    "V100 32GB": 32768,
    "L4": 23034,
    "A10": 23028,
    "A10G": 23028,
    "GTX 1080 Ti": 11264,
    "RTX 2080 Ti": 11264,
    "RTX 3060": 12288,
    "RTX 3070": 8192,
    "RTX 3080": 10240,
    "RTX 3090": 24576,
    "RTX 4060": 8188,
    "RTX 4060 Ti 16GB": 16380,
    "RTX 4070": 12282,
    "RTX 4070 Ti": 12282,
    "RTX 4080": 16376,
    "RTX 4090": 24564,
    "RTX 5060 Ti 16GB": 16311,
    "RTX 5070": 12227,
    "RTX 5080": 16303,
    "RTX 5090": 32607,
    "RTX A4000": 16376,
    "RTX A5000": 24564,
    "RTX A6000": 49140,
    "L40S": 46068,
    "A100 40GB": 40960,
    "A100 80GB": 81920,
    "H100": 81559,
    "H200": 143771,
}
BEFORE_AMPERE = ("T4", "P100", "V100 16GB", "V100 32GB", "GTX 1080 Ti", "RTX 2080 Ti")


@dataclass(frozen=True)
class Card:
    """A GPU: what it is called, its memory in bytes, and what it computes 16-bit numbers in, where that is known."""

    name: str
    bytes: int
    half: str | None = None


def asked_for(said: str, option: str = "--gpu") -> Card:
    """A card by its GB (`16`) or its name (`T4`, `rtx4090`). Raises PipelineError for what is neither."""
    for name, mib in MIB.items():
        sold = next(size for size in SIZES if size << 10 >= mib)
        if _spelled(said) in (_spelled(name), _spelled(f"{name} {sold}GB")):
            return Card(name, int((mib << 20) * SEEN), "float16" if name in BEFORE_AMPERE else "bfloat16")
    try:
        return named(float(re.sub(r"\s*G(i?B)?$", "", said, flags=re.IGNORECASE)), option)
    except ValueError:
        pass
    raise PipelineError(
        f"{option} {said}: is neither a number of GB nor a card that is known by its name.",
        f"Give what the card is sold with, such as {option} 16, or one of {', '.join(MIB)}.",
    )


def _spelled(name: str) -> str:
    """A card's name in its barest form: `NVIDIA GeForce RTX 4090`, `rtx-4090` and `4090` are one."""
    return re.sub(r"nvidia|geforce|tesla|rtx|gtx|sxm\d?|pcie|gi?b|[^a-z0-9]", "", name.lower())


def named(gib: float, option: str = "--gpu") -> Card:
    """One of so many GB, as cards are sold. Raises PipelineError for a size that none has, as said by an `option`."""
    if not 1 <= gib <= 2048:
        fix = f"Give what the card is sold with, such as {option} 16."
        raise PipelineError(f"{option} {gib:g}: is no size of a card in GB.", fix)
    return Card(f"a card of {gib:g} GB", int(gib * GIB * SEEN))


def own() -> Card | None:
    """This machine's first one that may be used; None where there is none, or nobody tells."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    program = shutil.which("nvidia-smi")
    if visible in ("", "-1") or program is None:
        return None
    found = _told(program, (visible or "0").partition(",")[0])
    if found and (cap := os.environ.get("ALIGN_GPU_GIB")):
        return replace(found, bytes=min(found.bytes, int(float(cap) * GIB)))
    return found


def half_of(capability: str) -> str:
    """What a card computes 16-bit numbers in, by what nvidia-smi says of it; one that is shared out may not tell."""
    return "float16" if _NUMBER.fullmatch(capability) and float(capability) < AMPERE else "bfloat16"


@cache
def _told(program: str, which: str) -> Card | None:
    try:
        asked = subprocess.run([program, *_ASK, "-i", which], capture_output=True, text=True, timeout=10, check=True)
        name, mib, capability = asked.stdout.strip().splitlines()[0].rsplit(",", 2)
        return Card(name.strip(), int((int(mib) << 20) * SEEN), half_of(capability.strip()))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
