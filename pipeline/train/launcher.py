"""Between the run and a stage of several processes: starts them by torch's own launcher, and says which of them died of what.

It is started and given its job as a stage's process is (pipeline.train.worker), and its processes share its standard input and
output: each of them dies when the run does, and each can tell of an error. They have the job from their environment.
"""

import json
import os
import signal
import sys
import uuid
from pathlib import Path

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from pipeline.train.job.events import Channel
from pipeline.train.job.job import AGAIN, INTERRUPTED, JOB, Job, log_name

TOLD = (AGAIN, INTERRUPTED)  # exit codes that say all there is to say


def main() -> None:
    channel = Channel()
    line = sys.stdin.readline()
    if not line:
        return
    job = Job(**json.loads(line))
    _log_into(Path(job.folder))
    os.environ[JOB] = line
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=job.processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
    )
    command = ("-P", "-u", "-m", "pipeline.train.worker")
    try:
        elastic_launch(config, sys.executable)(*command)
        code = 0
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = failure.exitcode if failure.exitcode > 0 else 1
        if code not in TOLD:  # what it has told of itself came before this, and is what the run goes by
            channel.report("error", **_died(job, rank, failure.exitcode))
    except SignalException:
        code = INTERRUPTED
    sys.stderr.flush()
    os._exit(code)


def _log_into(folder: Path) -> None:
    """Torch's launcher writes to the screen what belongs to the stage's log."""
    folder.mkdir(parents=True, exist_ok=True)
    log = (folder / "stage.log").open("a", encoding="utf-8")
    os.dup2(log.fileno(), 2)


def _died(job: Job, rank: int, code: int) -> dict:
    which = f"{job.stage}: process {rank + 1} of {job.processes}"
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (the system may have run out of memory)" if name == "SIGKILL" else ""
        return {
            "what": f"{which} was killed by {name}{hint}, and the others were stopped.",
            "fix": "The same command continues.",
        }
    log = Path(job.folder) / log_name(rank)
    return {
        "what": f"{which} ended with code {code}, and the others were stopped.",
        "fix": f"The whole story is in {log}.",
    }


if __name__ == "__main__":
    main()
