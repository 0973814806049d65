"""The process of a stage: started, given its job, watched, and told of when it died."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.console.display import Display
from pipeline.errors import MachineError, PipelineError
from pipeline.model.backend import TRANSFORMERS, Backend
from pipeline.plan import processes
from pipeline.plan.step import EVALUATE, Step
from pipeline.recipe import strategies
from pipeline.recipe.recipe import Recipe
from pipeline.run.stopping import told
from pipeline.train.job.job import AGAIN, INTERRUPTED, Job, killer, log_name


def start_worker(options: Sequence[str] = (), processes: int = 1) -> subprocess.Popen:
    """A stage's process, waiting for its job, or what starts several of them; with the options to get warm, it loads the libraries
    while it waits.
    """
    module = "pipeline.train.worker" if processes == 1 else "pipeline.train.launcher"
    return subprocess.Popen(
        # -P: a file of the user's named like a library must not be taken for it.
        [sys.executable, "-P", "-m", module, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        start_new_session=True,  # Ctrl-C reaches it through us alone
    )


def job_of(step: Step, recipe: Recipe, runs: Path, folder: Path, **more: Any) -> Job:
    """What the process of a stage is asked for, or each of as many processes as its recipe says: an evaluation has one."""
    processes.check(recipe, [step])
    launch, chosen = recipe.launch, step.backend or Backend(TRANSFORMERS, "nothing is trained")
    if step.state != EVALUATE and launch.size > 1:
        more |= {"processes": launch.size, "strategy": launch.strategy, "nodes": launch.nodes}
        more |= {"node_rank": launch.node_rank, "rendezvous": launch.rendezvous} | strategies.told(launch)
    return Job(
        recipe=str(recipe.path),
        overrides=list(recipe.overrides),
        runs=str(runs),
        stage=step.stage,
        folder=str(folder),
        fingerprint=step.known_fingerprint,
        mode=step.state,
        backend=chosen.name,
        backend_why=chosen.why,
        **more,
    )


def give(process: subprocess.Popen, job: Job) -> None:
    """A process that died before it took its job says so when it is watched."""
    assert process.stdin is not None  # start_worker has piped it
    with suppress(BrokenPipeError):
        process.stdin.write(json.dumps(asdict(job)) + "\n")
        process.stdin.flush()


def watch(
    process: subprocess.Popen,
    job: Job,
    display: Display,
    listeners: Sequence[Callable[[dict], None]] = (),
    *,
    again: Callable[[], subprocess.Popen] | None = None,
) -> int:
    """Give a process its job and show what it tells until it is gone; `listeners` hear every event, too.
    Where memory ran out, `again` starts the process that goes on, which is such a one as `process` where nothing is said.

    Returns 0, or INTERRUPTED: Ctrl-C once, or SIGTERM, asks it to save and stop, Ctrl-C twice stops it. Raises PipelineError for what went
    wrong.
    """
    give(process, job)
    try:
        error, interrupted = _until_it_ends(process, display, listeners, several=job.processes > 1)
        code = process.wait()
    finally:
        display.end()
    if error:
        raise (PipelineError if code == 2 else MachineError)(error["what"], error["fix"])
    if code == AGAIN:  # memory ran out: from its last checkpoint, with fewer rows at a time
        if interrupted:
            display.say("  stopped; the same command continues")
            return INTERRUPTED
        fresh = again() if again else start_worker(processes=job.processes)
        return watch(fresh, job, display, listeners, again=again)
    if interrupted and code < 0:
        display.say("  stopped at once; the same command continues from the last checkpoint")
        return INTERRUPTED
    if code not in (0, INTERRUPTED):
        raise died(job, code)
    return code


def _until_it_ends(
    process: subprocess.Popen, display: Display, listeners: Sequence[Callable[[dict], None]], *, several: bool
) -> tuple[dict | None, bool]:
    """(the event of its error, where there was one; whether it was interrupted)"""
    error, interrupted, saved, pid = None, False, False, process.pid

    def stop(by_term: bool) -> None:
        nonlocal interrupted
        if by_term and interrupted:
            return  # it stops already
        if interrupted or (several and pid == process.pid):  # none of them is there yet
            process.kill()
        else:
            display.say(f"  stopping after this step ({'SIGTERM' if by_term else 'Ctrl-C again: at once'})")
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM if by_term else signal.SIGINT)
        interrupted = True

    with told(stop):
        for line in process.stdout or ():
            try:
                event = json.loads(line)
            except ValueError:  # two of several processes told of something at once
                continue
            if event["kind"] == "error":
                error = error or event
            elif event["kind"] == "started":
                pid = event["pid"]
            elif event["kind"] == "interrupted":
                saved = True
                display.end()
                display.say(f"  saved a checkpoint at step {event['step']}; the same command continues from there")
            for listen in listeners:
                listen(event)
            display.event(event)
        if interrupted and not saved and error is None and process.wait() == INTERRUPTED:
            display.end()
            display.say("  stopped; the same command continues")
    return error, interrupted


def died(job: Job, code: int) -> PipelineError:
    log = Path(job.folder) / log_name(0)
    if code < 0:
        return MachineError(f"{job.stage}: its process was killed by {killer(code)}.", "The same command continues.")
    return MachineError(f"{job.stage}: its process ended with code {code}.", f"The whole story is in {log}.")
