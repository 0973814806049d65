"""A server that says what it waits for when it is ended, and whose clients are told."""

import asyncio
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

PATIENCE = 3  # seconds for answers that are under way


class Ending(uvicorn.Server):
    """`under_way` counts the answers; `say` is for the person at the terminal."""

    def __init__(self, app: ASGIApp, under_way: Callable[[], int], say: Callable[[str], None]):
        options = {"log_level": "warning", "access_log": False, "lifespan": "off"}
        super().__init__(uvicorn.Config(app, timeout_graceful_shutdown=PATIENCE, **options))
        self._under_way, self._say = under_way, say

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit and (left := self._under_way()):
            answers = "1 answer" if left == 1 else f"{left} answers"
            self._say(f"Ending: {answers} under way may take {PATIENCE} seconds more; Ctrl-C again ends at once.")
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if left := [*self.server_state.tasks]:  # what was cancelled has to tell its client, or a signal ends it before
            await asyncio.wait(left, timeout=1)
