"""What the run asks of a stage's process; it travels as JSON."""

import signal
from dataclasses import dataclass

from pipeline.model.backend import ASKED, TRANSFORMERS

JUDGE = "judge"  # a mode beside those of a step: measure other attempts by the evaluation of this stage
AGAIN = 75  # the exit code of a stage that goes on in a fresh process, with fewer rows at a time
INTERRUPTED = 130  # the exit code of a stage that saved and stopped
# Where each process of a stage that has several finds its job, as JSON, and the number of its launcher.
JOB, LAUNCHER = "ALIGN_JOB", "ALIGN_LAUNCHER"


@dataclass(frozen=True)
class Job:
    """What the parent asks for; it can be written as JSON."""

    recipe: str
    overrides: list[str]
    runs: str
    stage: str
    folder: str
    fingerprint: str
    mode: str  # a step's state, or JUDGE
    policy: str | None = None
    backend: str = TRANSFORMERS
    backend_why: str = ASKED
    goals: tuple[str, ...] = ()  # of the whole run
    goals_policy: str | None = None  # what the first of them starts from
    ahead: tuple[str, ...] = ()  # the stages to be run after this one that it looks ahead at
    judged: tuple[str, ...] = ()  # the folders of the attempts to be measured
    processes: int = 1  # in all
    nodes: int = 1
    node_rank: int = 0
    rendezvous: str | None = None
    strategy: str = "ddp"  # what several processes have in common, see pipeline.recipe.launch
    offload: str | None = None
    deepspeed: dict | None = None  # what a file of one's own says, see pipeline.recipe.strategies


def killer(code: int) -> str:
    """What a process that ended with this negative code was killed by."""
    name = signal.Signals(-code).name
    return name + (" (the system may have run out of memory)" if name == "SIGKILL" else "")


def log_name(rank: int) -> str:
    """The log of one of a stage's processes: the first has the stage's own."""
    return f"stage-{rank + 1}.log" if rank else "stage.log"
