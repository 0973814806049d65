"""How a command that trains is asked to stop: by Ctrl-C, and by SIGTERM, which SLURM sends before a job's time is up.

Both save a checkpoint after the running step. They differ in the exit code, and in what a second one does: of Ctrl-C it
stops at once, of SIGTERM nothing, since a whole job is told of it, each of its processes for itself.
"""

import signal
from collections.abc import Callable

from pipeline.train.job.job import INTERRUPTED

TERMINATED = 128 + signal.SIGTERM  # the exit code, as a shell has it: 143


class Terminated(KeyboardInterrupt):
    """SIGTERM came. What ends for Ctrl-C ends for it, too."""


_came = False


def heed_sigterm() -> None:
    """From now on the first SIGTERM raises Terminated wherever the main thread is."""
    signal.signal(signal.SIGTERM, _on_sigterm)


def _on_sigterm(*_: object) -> None:
    global _came
    if not _came:
        _came = True
        raise Terminated


def exit_code(code: object) -> object:
    """What a command ends with that would end with `code`: 143 in place of 130 where SIGTERM stopped it."""
    return TERMINATED if _came and code == INTERRUPTED else code


def ended(stop: KeyboardInterrupt, say: Callable[[str], None]) -> int:
    """A word where a command is stopped while no stage is; returns its exit code."""
    if isinstance(stop, Terminated):
        say("stopped by SIGTERM; the same command continues")
        return TERMINATED
    return INTERRUPTED
