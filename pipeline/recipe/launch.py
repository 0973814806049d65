"""How many processes a stage is trained by, and what they have in common: how it is run, never what is trained."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from pipeline.recipe.fields import effective
from pipeline.section import Section
from pipeline.stage import Spec
from pipeline.wording import must_be

ZERO = ("zero1", "zero2", "zero3")  # the strategies that are DeepSpeed's
SHARDING = ("fsdp", "zero3")  # those with which each process holds a part of the weights
DIVIDING = ("fsdp", *ZERO)  # those with which each holds a part of anything: all but ddp
EACH, PASSES, SLICES = "per_device_train_batch_size", "gradient_accumulation_steps", "steps_per_generation"


def _processes(value: object) -> object:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError(must_be("a number of processes or auto (one for each GPU)", value))


def _address(value: object) -> object:
    if value is None or (isinstance(value, str) and re.fullmatch(r"[^\s:]+:\d+", value)):
        return value
    raise ValueError(must_be("the first machine's address and a free port of it, as in host:29500", value))


class Launch(Section):
    """One process for each GPU of a machine, or so many; `strategy` is what each of them holds.

    Of several machines each is told which of them it is, from 0, and where they meet: at an address of the first.
    """

    processes: Annotated[int | str, BeforeValidator(_processes)] = 1
    """So many on each machine, or `auto`: one for each GPU."""
    strategy: Literal["ddp", "fsdp", "zero1", "zero2", "zero3"] = "ddp"
    """What several hold: with `ddp` each has the whole model, and they exchange gradients; with `fsdp` (torch's FSDP2) each has
    a part of weights, gradients and optimizer, and they exchange all three. DeepSpeed divides the optimizer (`zero1`), the
    gradients, too (`zero2`), or all three (`zero3`).
    """
    offload: Literal["cpu"] | None = None
    """With all but `ddp`: where these parts are while they are not needed (with `zero1` and `zero2` the optimizer works there);
    left out, on the GPU.
    """
    deepspeed: str | None = None
    """With `zero1` to `zero3`: a file of DeepSpeed's (JSON or YAML) on top of what this project gives it."""
    nodes: Annotated[int, Field(ge=1)] = 1
    """How many machines there are."""
    node_rank: Annotated[int, Field(ge=0)] = 0
    """Which of them this is, from 0."""
    rendezvous: Annotated[str | None, BeforeValidator(_address)] = None
    """Where they meet: the first one's address and a free port of it, `host:29500`."""

    @model_validator(mode="after")
    def _whole(self) -> "Launch":
        if self.node_rank >= self.nodes:
            raise ValueError(
                f"node_rank is {self.node_rank}, and of {self.nodes} machines the last is {self.nodes - 1}"
            )
        if self.strategy in DIVIDING and self.processes == 1 and self.nodes == 1:
            raise ValueError(
                f"strategy {self.strategy} shares a model among several processes, and this is one: say how many with processes "
                "(--processes 2), or name ddp (--strategy ddp)"
            )
        if self.offload and self.strategy not in DIVIDING:
            raise ValueError(f"offload is for strategy {' or '.join(DIVIDING)}, and this is {self.strategy}")
        if self.deepspeed and self.strategy not in ZERO:
            raise ValueError(f"deepspeed is a file for strategy {' or '.join(ZERO)}, and this is {self.strategy}")
        if self.deepspeed and self.offload:
            raise ValueError("offload stands beside deepspeed: say it in that file")
        if self.rendezvous and self.nodes == 1:
            raise ValueError("rendezvous is for several machines; say how many with nodes (--nodes 2)")
        if self.nodes > 1 and not self.rendezvous:
            raise ValueError(
                "several machines need rendezvous: the first one's address and a free port of it, host:29500"
            )
        return self

    @property
    def here(self) -> int:
        """How many processes this machine has."""
        return max(visible_gpus(), 1) if self.processes == "auto" else int(self.processes)

    @property
    def size(self) -> int:
        """How many processes there are: every machine has as many as this one."""
        return self.here * self.nodes

    @property
    def words(self) -> str:
        """What a plan says of it; nothing of one process."""
        machines = f" on {self.nodes} machines" if self.nodes > 1 else ""
        said = f", with {self.size} processes{machines} ({self.strategy})" if self.size > 1 else ""
        if self.processes != "auto" or visible_gpus():
            return said
        return f"{said or ', with one process'}; auto finds no GPU {_unseen()}"


def visible_gpus() -> int:
    """How many NVIDIA GPUs a process may use here, told without torch."""
    there = [path for path in Path("/dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)]
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return len(there)
    return min(len([one for one in named.split(",") if one.strip() not in ("", "-1")]), len(there))


def _unseen() -> str:
    """Where a GPU was looked for in vain."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "here" if hidden is None else f'here (CUDA_VISIBLE_DEVICES is "{hidden}")'


def divided(spec: Spec, given: Mapping[str, Any], size: int) -> dict[str, Any]:
    """The training arguments of each of so many processes that together make the steps which one would make of `given`.

    The passes of a step are dealt out, or else the rows of each pass. Raises ValueError, with the reason, where neither can
    be without teaching otherwise.
    """
    if size == 1:
        return dict(given)
    values = effective(spec.config, dict(given))
    each, passes, fewer = int(values[EACH]), int(values[PASSES]), 1
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


def takes_bits(strategy: str, bits: int) -> bool:
    """Whether a base of 4 or 8 bits can be held as a strategy holds it. bitsandbytes finds the scales of a weight in 4 bits by its
    layer, where FSDP leaves them whole, and those of 8 bits in the weight itself; DeepSpeed cannot always load these again, and
    zero3's parts of 4 bits were not tried.
    """
    return strategy == "ddp" or (bits == 4 and strategy != "zero3")


def can_go_on(begun: Mapping[str, Any], size: int, strategy: str) -> bool:
    """Whether an attempt that was begun as its run.json says goes on with so many processes and this strategy: a checkpoint's
    optimizer has the form of its strategy, and DeepSpeed's is of one number of processes.
    """
    then, now = begun.get("strategy", "ddp"), strategy if size > 1 else "ddp"
    if {then, now} & set(ZERO):
        return (then, begun["processes"]) == (now, size)
    return (then in SHARDING) == (now in SHARDING)


def of_slurm(environment: Mapping[str, str]) -> list[str]:
    """The overrides that place this machine among those of a SLURM step; none where it is no step of several.

    `srun` starts one task on each of them.
    """
    nodes = int(environment.get("SLURM_STEP_NUM_NODES", 1))
    if nodes == 1 or environment.get("SLURM_STEP_NUM_TASKS") != str(nodes):
        return []
    first = re.findall(r"(?:\[[^\]]*\]|[^,\[])+", environment["SLURM_STEP_NODELIST"])[0]
    first = re.sub(r"\[(\d+)[^\]]*\]", r"\1", first)
    port = 20_000 + (int(environment["SLURM_JOB_ID"]) * 7 + int(environment.get("SLURM_STEP_ID", 0))) % 10_000
    rank = environment["SLURM_NODEID"]
    return [f"launch.nodes={nodes}", f"launch.node_rank={rank}", f"launch.rendezvous={first}:{port}"]
