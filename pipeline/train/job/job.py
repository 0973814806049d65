"""What the run asks of a stage's process; it travels as JSON."""

from dataclasses import dataclass

from pipeline.model.backend import ASKED, TRANSFORMERS

JUDGE = "judge"  # a mode beside those of a step: measure other attempts by the evaluation of this stage
AGAIN = 75  # the exit code of a stage that goes on in a fresh process, with fewer rows at a time
INTERRUPTED = 130  # the exit code of a stage that saved and stopped
JOB = "ALIGN_JOB"  # where each process of a stage that has several finds its job, as JSON


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


def log_name(rank: int) -> str:
    """The log of one of a stage's processes: the first has the stage's own."""
    return f"stage-{rank + 1}.log" if rank else "stage.log"
