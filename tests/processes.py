"""Commands that are stopped while they run, and the moments to do it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from filelock import FileLock


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "run", "-r", "micro.yaml", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # A shell starts its background jobs deaf to Ctrl-C, and their children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def kill(process: subprocess.Popen, folder: Path) -> None:
    """With all that it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    wait_until_gone(folder)


def wait_until_gone(folder: Path) -> None:
    """On a busy machine the last of what was killed is gone, and its lock with it, a moment later."""
    for lock in (folder / "runs").rglob(".lock"):
        with FileLock(lock, timeout=10):
            pass


def wait_for(folder: Path, pattern: str, process: subprocess.Popen) -> None:
    """Until a file of that pattern appears below runs/micro."""
    for _ in range(60_000):
        if any((folder / "runs" / "micro").glob(pattern)):
            return
        assert process.poll() is None, f"it ended before {pattern} was there: {process.stdout.read()}"
        time.sleep(0.001)
    raise AssertionError(f"{pattern} did not appear")


def processes() -> dict[int, tuple[int, str]]:
    """By its number the parent and the command of every process."""
    said = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in said.splitlines()[1:]]
    return {int(pid): (int(parent), command) for pid, parent, command in rows}


def below(pid: int) -> list[int]:
    """The processes that a process has started, and those that they have."""
    there = processes()
    own = [one for one, (parent, _) in there.items() if parent == pid]
    return own + [other for one in own for other in below(one)]


def kill_rank(rank: int, run: int) -> None:
    """Of the processes that a command has started for its stage."""
    for pid in below(run):
        said = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if f"RANK={rank}".encode() in said:
            os.kill(pid, signal.SIGKILL)
            return
    raise AssertionError(f"no process of rank {rank}")
