"""The process of a stage: started, given its job, and told of when it died."""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict

from pipeline.errors import MachineError, PipelineError
from pipeline.plan.step import Step
from pipeline.train.job import Job


def start_worker(options: Sequence[str] = ()) -> subprocess.Popen:
    """A stage's process, waiting for its job; with the options to get warm, it loads the libraries while it waits."""
    return subprocess.Popen(
        # -P: a file of the user's named like a library must not be taken for it.
        [sys.executable, "-P", "-m", "pipeline.train.worker", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        start_new_session=True,  # Ctrl-C reaches it through us alone
    )


def give(process: subprocess.Popen, job: Job) -> None:
    """A process that died before it took its job says so when it is watched."""
    with suppress(BrokenPipeError):
        process.stdin.write(json.dumps(asdict(job)) + "\n")
        process.stdin.flush()


def died(step: Step, code: int) -> PipelineError:
    log = step.attempt.folder / "stage.log"
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (the system may have run out of memory)" if name == "SIGKILL" else ""
        return MachineError(f"{step.stage}: its process was killed by {name}{hint}.", "The same command continues.")
    return MachineError(f"{step.stage}: its process ended with code {code}.", f"The whole story is in {log}.")
