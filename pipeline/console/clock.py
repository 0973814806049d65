"""How fast a stage trains, and how long it will still take, by the times of its events."""


class Clock:
    """The training of one stage. Times are in seconds; what is done between two steps is left out of them."""

    def __init__(self, at: float, steps: int):
        self.steps = steps
        self.step: int | None = None  # the last one that is done
        self.speed = 0.0  # tokens a second
        self._begun = self._now = at
        self._first: tuple[float, int, int] | None = None  # time, tokens and step from which the speed is counted
        self._paused: float | None = None  # since when

    def pause(self, at: float) -> None:
        self._paused = at if self._paused is None else self._paused

    def go_on(self, at: float) -> None:
        if self._paused is not None:
            lost, self._paused = at - self._paused, None
            self._begun += lost
            self._now += lost  # nothing may be trained after the pause
            self._first = self._first and (self._first[0] + lost, *self._first[1:])

    def stepped(self, at: float, step: int, tokens: int) -> None:
        """A step is done; `tokens` are those so far."""
        self._now, self.step = at, step
        self._first = self._first or (at, tokens, step)
        since, before, _ = self._first
        self.speed = (tokens - before) / max(at - since, 1e-9)

    @property
    def taken(self) -> float:
        """From the beginning to the last step."""
        return self._now - self._begun

    @property
    def left(self) -> float | None:
        """What the steps that are left will take; None where that is not known yet, or none is."""
        if self._first is None:
            return None
        since, _, first = self._first
        done, left = self.step - first, self.steps - self.step
        return (self._now - since) / done * left if done and left else None
