"""How a stage's process is stopped: by Ctrl-C, whose meaning depends on what is being done, by SIGTERM, and with the run that
started it.
"""

import os
import signal
from threading import Event, Thread

from pipeline.train.job.job import INTERRUPTED


class Interruption(Event):
    """Set once a person has asked the training to save and stop."""

    training = False  # whether there are steps that can be stopped between

    def on_signal(self, *_: object) -> None:
        """The first Ctrl-C lets a running step end; before and after training, and the second time, it
        just stops: raises KeyboardInterrupt.
        """
        if self.is_set() or not self.training:
            raise KeyboardInterrupt
        self.set()

    def on_sigterm(self, *_: object) -> None:
        """Lets a running step end, however often it comes; before and after training there is nothing to save."""
        if not self.training:
            os._exit(INTERRUPTED)
        self.set()

    def heed_sigterm(self, launcher: int | None = None) -> None:
        """From now on. `launcher` is the process that started this one beside others: it sends SIGTERM when one of them
        died, and then this one has to go at once, whatever it waits for.

        To be called before there are other threads. Processes that are forked later, such as those that read rows ahead,
        are deaf to SIGTERM: a whole job is told of it, and this one still needs them for its step.
        """
        if hasattr(signal, "sigwaitinfo"):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            Thread(target=self._wait_for_sigterm, args=(launcher,), daemon=True).start()
        elif launcher is None:  # macOS does not say who has sent it: of several, each is ended by it at once
            signal.signal(signal.SIGTERM, self.on_sigterm)

    def _wait_for_sigterm(self, launcher: int | None) -> None:
        while True:
            if signal.sigwaitinfo({signal.SIGTERM}).si_pid == launcher:
                os._exit(1)
            self.on_sigterm()


def die_with_the_run() -> None:
    """Wait until nobody holds the other end of standard input any more, and end at once."""
    while os.read(0, 4096):
        pass
    os._exit(1)
