"""Between the run and a stage of several processes: starts them by torch's own launcher, and says which of them died of what.

It is started and given its job as a stage's process is (pipeline.train.worker), and its processes share its standard input and
output: each of them dies when the run does, and each can tell of an error. They have the job from their environment.
"""

import json
import os
import signal
import sys
import threading
import uuid
from datetime import timedelta
from pathlib import Path

from pipeline.train.job.events import Channel
from pipeline.train.job.interruption import die_with_the_run
from pipeline.train.job.job import AGAIN, INTERRUPTED, JOB, LAUNCHER, Job, killer, log_name
from pipeline.train.meeting import stranger_at

PATIENCE = timedelta(minutes=float(os.environ.get("ALIGN_PATIENCE", 10)))  # that one machine has with the others
TOLD = (AGAIN, INTERRUPTED)  # exit codes that say all there is to say


def main() -> None:
    # Until torch's launcher answers it: nothing is begun yet.
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    # The run says it to the first process, and all save; torch's launcher would give them half a minute.
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getppid(), signal.SIGTERM))
    channel = Channel()
    line = sys.stdin.readline()
    if not line:
        return
    job = Job(**json.loads(line))
    _log_into(Path(job.folder), job.node_rank)
    os.environ |= {JOB: line, LAUNCHER: str(os.getpid())}
    threading.Thread(target=die_with_the_run, daemon=True).start()  # also while it waits for other machines
    code = _launched(job, channel)
    sys.stderr.flush()
    os._exit(code)


def _launched(job: Job, channel: Channel) -> int:
    """The exit code, when all processes have ended."""
    from torch.distributed import DistNetworkError, DistStoreError
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if job.node_rank and (stranger := stranger_at(job.rendezvous, PATIENCE)):
        channel.report("error", **_met(job, stranger))
        return 1
    command = ("-P", "-u", "-m", "pipeline.train.worker")
    try:
        elastic_launch(LaunchConfig(**_config(job)), sys.executable)(*command)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode not in TOLD:  # what it has told of itself came before this, and is what the run goes by
            channel.report("error", **_died(job, rank, failure.exitcode))
        return failure.exitcode if failure.exitcode > 0 else 1
    except (DistNetworkError, DistStoreError) as error:
        channel.report("error", **_alone(job, error))
        return 1
    except (SignalException, KeyboardInterrupt):
        return INTERRUPTED
    return 0


def _config(job: Job) -> dict[str, object]:
    """What torch's LaunchConfig is given."""
    same = {
        "min_nodes": job.nodes,
        "max_nodes": job.nodes,
        "nproc_per_node": job.processes // job.nodes,
        "max_restarts": 0,
        "signals_to_handle": "SIGINT,SIGHUP,SIGQUIT",
    }
    if job.nodes == 1:
        alone = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "local_addr": "localhost"}
        return same | alone | {"run_id": uuid.uuid4().hex}
    # The machines are counted by hand, so that rank 0 is on the one that tells and keeps everything.
    settings = {"rank": job.node_rank, "timeout": int(PATIENCE.total_seconds())}
    meeting = {"rdzv_backend": "static", "rdzv_endpoint": job.rendezvous, "rdzv_configs": settings}
    return same | meeting | {"run_id": job.stage}


def _alone(job: Job, error: Exception) -> dict:
    said = str(error)
    if job.nodes == 1:
        log = Path(job.folder) / log_name(0)
        return {"what": f"{job.stage}: its processes did not find each other.", "fix": f"The whole story is in {log}."}
    if "EADDRINUSE" in said or "address already in use" in said:
        what, fix = (
            f"{job.rendezvous}: the port is in use.",
            "Name another one on every machine, with --rendezvous (launch.rendezvous).",
        )
    else:
        seconds = PATIENCE.total_seconds()
        what = f"{job.stage}: the {job.nodes} machines did not meet at {job.rendezvous} within {seconds:.0f} seconds."
        fix = f"Start the same command on each, with --node-rank 0 to {job.nodes - 1}; see whether they reach that address."
    return {"what": what, "fix": fix}


def _met(job: Job, stranger: str) -> dict:
    seconds = PATIENCE.total_seconds()
    return {
        "what": f"{job.rendezvous}: the first machine was not there within {seconds:.0f} seconds: {stranger}.",
        "fix": "Name the first machine's address and a free port of it on every machine, with --rendezvous (launch.rendezvous).",
    }


def _log_into(folder: Path, machine: int) -> None:
    """Torch's launcher writes to the screen what belongs to the stage's log."""
    folder.mkdir(parents=True, exist_ok=True)
    log = (folder / ("stage.log" if not machine else f"machine-{machine + 1}.log")).open("a", encoding="utf-8")
    os.dup2(log.fileno(), 2)


def _died(job: Job, rank: int, code: int) -> dict:
    which = f"{job.stage}: process {rank + 1} of {job.processes}"
    if code < 0:
        return {
            "what": f"{which} was killed by {killer(code)}, and the others were stopped.",
            "fix": "The same command continues.",
        }
    log = Path(job.folder) / log_name(rank)
    return {
        "what": f"{which} ended with code {code}, and the others were stopped.",
        "fix": f"The whole story is in {log}.",
    }


if __name__ == "__main__":
    main()
