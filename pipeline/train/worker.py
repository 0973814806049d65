"""A stage's own process, around its run: how it starts, takes its job, ends, and says why.

Started by pipeline.run.process with a job on standard input, it tells its parent of events in JSON lines on
standard output and dies when its standard input closes: a parent that was killed leaves nothing behind.
Whatever else writes to the screen (libraries, C code) ends up in the artifact's stage.log.
"""

import importlib
import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.artifact.attempt import Attempt
from pipeline.errors import PipelineError
from pipeline.model import backend
from pipeline.plan.step import EVALUATE
from pipeline.train.job.checked_job import check, smaller
from pipeline.train.job.events import Channel
from pipeline.train.job.interruption import Interruption
from pipeline.train.job.job import AGAIN, INTERRUPTED, JUDGE, Job
from pipeline.train.job.machine import before_imports
from pipeline.train.job.shrinking import memory_ran_out


def main() -> None:
    channel = Channel()
    if "--warm" in sys.argv:
        _warm_up()
    line = sys.stdin.readline()
    if not line:
        return  # started ahead of a job that never came
    job = Job(**json.loads(line))
    threading.Thread(target=_die_with_parent, daemon=True).start()
    interruption = Interruption()
    try:
        code = _run(job, channel, interruption)
    except PipelineError as error:
        if error.__cause__:  # of a function of the user's: the log has where it came from
            traceback.print_exc()
        channel.report("error", what=error.what, fix=error.fix)
        code = error.exit_code
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BaseException as error:
        traceback.print_exc()
        channel.report("error", **_failure(job, error))
        code = 1
    sys.stderr.flush()
    os._exit(code)  # without the seconds that libraries spend on taking themselves apart


def _warm_up() -> None:
    """Load what every stage loads. Whatever is said meanwhile has no log to go to yet."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    before_imports("--bitsandbytes" in sys.argv)
    name, runs = sys.argv[2:4]
    backend.start(name, Path(runs))
    importlib.import_module("pipeline.train.stage_run")


def _die_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


def _failure(job: Job, error: BaseException) -> dict:
    log = Path(job.folder) / "stage.log"
    return {
        "what": f"{job.stage} failed: {type(error).__name__}: {error}",
        "fix": f"The whole story is in {log}.",
    }


def _run(job: Job, channel: Channel, interruption: Interruption) -> int:
    attempt = Attempt(Path(job.folder))
    try:
        attempt.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(attempt.folder / ".lock", timeout=0)
        lock.acquire()
        log = (attempt.folder / "stage.log").open("a", encoding="utf-8")
    except Timeout:
        raise PipelineError(
            f"{job.stage}: another run is working on {attempt.folder}.", "Wait for it, or stop it."
        ) from None
    except OSError as error:
        raise PipelineError(
            f"{error.filename or attempt.folder}: {error.strerror}.",
            "Choose another folder with --runs (RUNS=).",
        ) from None
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    signal.signal(signal.SIGINT, interruption.on_signal)
    checked = check(job, attempt)
    from pipeline.train.stage_run import StageRun  # heavy: what it imports is loaded by now, as the backend wants it

    stage = StageRun(checked, channel.report, interruption)
    does = {EVALUATE: stage.evaluate_again, JUDGE: stage.judge}.get(job.mode, stage.run)
    try:
        return does() or 0
    except BaseException as error:
        if not memory_ran_out(error):
            raise
        channel.report("shrunk", text=smaller(checked, channel.phase, error))
        traceback.print_exc()
        return AGAIN


if __name__ == "__main__":
    main()
