"""Ctrl-C in a stage's process: what it means depends on what is being done."""

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
