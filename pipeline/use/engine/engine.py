"""The engine that answers here: one thread, which lets every policy's batch take a step in turn."""

import threading
import traceback
from collections.abc import Callable, Sequence

from pipeline.errors import MachineError
from pipeline.use.engine.lane import Answer, Lane
from pipeline.use.engine.request import Full, Piece, Request, Ticket
from pipeline.use.loaded import Policy


class Engine:
    """Answers for the policies. Of each, `most_rows` requests are answered at once; `most_waiting` of all may wait."""

    def __init__(self, policies: Sequence[Policy], most_rows: int = 16, most_waiting: int = 512):
        self._lanes = {one.subject.name: Lane(one, most_rows) for one in policies}
        self._most_waiting = most_waiting
        self._new: list[Answer] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        return len(self._new) + sum(lane.waiting for lane in self._lanes.values())

    @property
    def under_way(self) -> int:
        """Requests that wait or are being answered."""
        return len(self._new) + sum(map(len, self._lanes.values()))

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def ask(self, request: Request, deliver: Callable[[Piece], None]) -> Ticket:
        ticket = Ticket()
        answer = Answer(request, self._lanes[request.policy].policy, ticket, deliver)
        with self._changed:
            if self.waiting >= self._most_waiting:
                raise Full(f"{self._most_waiting} requests wait already.", "Ask again later.")
            self._new.append(answer)
            self._changed.notify()
        return ticket

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while self._take_new():
            for lane in self._lanes.values():
                if lane:
                    self._step(lane)

    def _take_new(self) -> bool:
        """Give each new request to its lane; with nothing to do, wait for one. False: the engine is closed."""
        with self._changed:
            while not (self._closed or self._new or any(self._lanes.values())):
                self._changed.wait()
            for answer in self._new:
                self._lanes[answer.request.policy].add(answer)
            self._new.clear()
            return not self._closed

    @staticmethod
    def _step(lane: Lane) -> None:
        try:
            lane.step()
        except Exception as error:  # of a model's own code; the next requests are not to suffer from it
            traceback.print_exc()
            lane.fail(MachineError(f"The model failed: {type(error).__name__}: {error}"))
