"""How a stage's process is stopped: by Ctrl-C, whose meaning depends on what is being done, and with the run that started it."""

import os
from threading import Event


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


def die_with_the_run() -> None:
    """Wait until nobody holds the other end of standard input any more, and end at once."""
    while os.read(0, 4096):
        pass
    os._exit(1)
