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
import time
import traceback
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline import ranks as ranks_of
from pipeline.artifact.attempt import Attempt
from pipeline.errors import PipelineError
from pipeline.model import backend
from pipeline.model.backend import UNSLOTH
from pipeline.plan.step import EVALUATE
from pipeline.ranks import Ranks, lost_another
from pipeline.train.job.checked_job import check, smaller
from pipeline.train.job.events import Channel
from pipeline.train.job.interruption import Interruption, die_with_the_run
from pipeline.train.job.job import AGAIN, INTERRUPTED, JOB, JUDGE, LAUNCHER, Job, log_name
from pipeline.train.job.machine import before_imports, importing, leaving_out
from pipeline.train.job.shrinking import memory_ran_out

UNUSED = "not used in producing loss"  # what DDP says of parameters without a gradient
GRACE = 20  # seconds that a process waits to be stopped when it has lost another


def main() -> None:
    ranks = ranks_of.here()
    channel = Channel(ranks)
    interruption = Interruption()
    interruption.heed_sigterm(None if ranks.alone else int(os.environ[LAUNCHER]))
    if "--warm" in sys.argv:
        _warm_up()
    line = os.environ.pop(JOB, None) or sys.stdin.readline()
    if not line:
        return  # started ahead of a job that never came
    job = Job(**json.loads(line))
    threading.Thread(target=die_with_the_run, daemon=True).start()
    if not ranks.alone:
        threading.Thread(target=_die_with_the_launcher, args=(int(os.environ[LAUNCHER]),), daemon=True).start()
        if os.environ["LOCAL_RANK"] == "0":
            channel.report("started", pid=os.getpid())
    try:
        code = _run(job, channel, interruption, ranks)
    except PipelineError as error:
        if error.__cause__:  # of a function of the user's: the log has where it came from
            traceback.print_exc()
        channel.report("error", what=error.what, fix=error.fix)
        code = error.exit_code
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BaseException as error:
        traceback.print_exc()
        if not ranks.alone and lost_another(error):
            time.sleep(GRACE)  # the launcher stops this process, and knows which one was lost, and why
        channel.report("error", **_failure(job, error, ranks))
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
    with importing(), _without_unused(name):
        backend.start(name, Path(runs))
        importlib.import_module("pipeline.train.stage_run")


def _without_unused(name: str) -> AbstractContextManager[None]:
    """Unsloth writes TRL's trainers anew from their source: it has all that is installed."""
    return nullcontext() if name == UNSLOTH else leaving_out()


def _die_with_the_launcher(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(0.2)
    os._exit(1)


def _failure(job: Job, error: BaseException, ranks: Ranks) -> dict:
    log = Path(job.folder) / log_name(ranks.rank)
    which = "" if ranks.alone else f" ({ranks.name})"
    if not ranks.alone and lost_another(error):
        return {
            "what": f"{job.stage}: {ranks.name} lost another one, which is gone or cannot be reached.",
            "fix": f"The same command, on every machine, continues. What the network said is in {log}.",
        }
    if not ranks.alone and UNUSED in str(error):
        return {
            "what": f"{job.stage}{which}: some of what it trains had no part in a step's loss, and processes wait for its gradients.",
            "fix": f"Train it in one process: --processes 1 (PROCESSES=1). What torch said is in {log}.",
        }
    return {
        "what": f"{job.stage} failed{which}: {type(error).__name__}: {error}",
        "fix": f"The whole story is in {log}.",
    }


def _run(job: Job, channel: Channel, interruption: Interruption, ranks: Ranks) -> int:
    attempt = Attempt(Path(job.folder))
    try:
        attempt.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(attempt.folder / ".lock", timeout=0)
        if ranks.first:
            lock.acquire()
        log = (attempt.folder / log_name(ranks.rank)).open("a", encoding="utf-8")
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
    with importing(), _without_unused(job.backend):
        checked = check(job, attempt, ranks)
        from pipeline.train.stage_run import StageRun  # heavy; the backend has loaded first what it rewrites

    stage = StageRun(checked, channel.report, interruption)
    whole = stage.run if ranks.first else stage.follow
    does = {EVALUATE: stage.evaluate_again, JUDGE: stage.judge}.get(job.mode, whole)
    try:
        return does() or 0
    except BaseException as error:
        if not memory_ran_out(error):
            raise
        if said := smaller(checked, channel.phase, error):
            channel.report("shrunk", text=said)
        traceback.print_exc()
        return AGAIN


if __name__ == "__main__":
    main()
