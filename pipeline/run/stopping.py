"""How a command that trains is asked to stop: by Ctrl-C, and by SIGTERM, which SLURM sends before a job's time is up.

Both save a checkpoint after the running step. They differ in the exit code, and in what a second one does: of Ctrl-C it
stops at once, of SIGTERM nothing, since a whole job is told of it, each of its processes for itself.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.console.screen import make_console
from pipeline.train.job.job import INTERRUPTED

TERMINATED = 128 + signal.SIGTERM  # the exit code, as a shell has it: 143


class Terminated(KeyboardInterrupt):
    """SIGTERM came. What ends for Ctrl-C ends for it, too."""


_came = False


@contextmanager
def heeding_sigterm() -> Iterator[None]:
    """Around a command that trains: the first SIGTERM raises Terminated wherever its main thread is. What watches a stage saves
    and ends it; otherwise nothing is to be saved, and the command says a word and ends.
    """
    signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        yield
    except Terminated:
        make_console().print("stopped by SIGTERM; the same command continues")
        raise SystemExit(TERMINATED) from None


def _on_sigterm(*_: object) -> None:
    global _came
    if not _came:
        _came = True
        raise Terminated


@contextmanager
def told(stop: Callable[[bool], None]) -> Iterator[None]:
    """While a stage is watched, Ctrl-C and SIGTERM call `stop` (with True for SIGTERM) and raise nothing: an exception could come
    while an event is shown, which would then be lost.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone is told of signals
        yield
        return

    def on_sigterm(*_: object) -> None:
        global _came
        _came = True
        stop(True)

    before = {}
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        before[signal.SIGINT] = signal.signal(signal.SIGINT, lambda *_: stop(False))
    if signal.getsignal(signal.SIGTERM) is _on_sigterm:
        before[signal.SIGTERM] = signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def exit_code(code: object) -> object:
    """What a command ends with that would end with `code`: 143 in place of 130 where SIGTERM stopped it."""
    return TERMINATED if _came and code == INTERRUPTED else code
