"""From subjects to a server that listens: its place, its key, and what it says when it is there."""

import ipaddress
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pipeline import installing
from pipeline.console.screen import Screen, make_console
from pipeline.errors import PipelineError
from pipeline.use.subject import Subject

KEY = "ALIGN_API_KEY"
_NEEDED = ("starlette", "uvicorn")


@dataclass(frozen=True)
class Place:
    """Where to listen, and who may ask. Raises PipelineError where others could ask without a key."""

    host: str
    port: int
    key: str | None = None

    def __post_init__(self):
        if not self.key and not self.is_here:
            raise PipelineError(
                f"--host {self.host}: other machines could ask this server, and there is no key.",
                f"Set one in the environment variable {KEY}, or name a file that holds it: --api-key-file FILE.",
            )

    @property
    def is_here(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def bound(self) -> socket.socket:
        """A socket that is ours before anything is loaded."""
        try:
            family, *_, address = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0]
            bound = socket.socket(family, socket.SOCK_STREAM)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except OSError as error:
            raise PipelineError(
                f"{self.host}:{self.port} cannot be listened on: {error.strerror}.",
                f"End what listens there, or choose another port: --port {min(self.port + 1, 65535)}.",
            ) from None
        return bound


def key_of(file: Path | None) -> str | None:
    """The key that is asked for: a file's, else the environment's. Raises PipelineError for a file without one."""
    if file is None:
        return os.environ.get(KEY) or None
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise PipelineError(f"{file}: the API key cannot be read: {getattr(error, 'strerror', error)}.") from None
    if not key or len(key.split()) > 1:
        raise PipelineError(f"{file}: holds no API key; it has to be one word on one line.")
    return key


def check_installed() -> None:
    if missing := [name for name in _NEEDED if not find_spec(name)]:
        raise PipelineError(
            f"serve: {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed.",
            f"Install what serving needs: make serve, or {installing.extra('serve')}",
        )


def serve(subjects: Sequence[Subject], place: Place, most_rows: int, most_waiting: int, page: bool) -> None:
    """Until it is interrupted."""
    check_installed()
    with place.bound() as bound:
        _serve(subjects, place, bound, (most_rows, most_waiting), page)


def _serve(
    subjects: Sequence[Subject], place: Place, bound: socket.socket, limits: tuple[int, int], page: bool
) -> None:
    from pipeline.data.shapes.turns import turn
    from pipeline.use.asking import Defaults, give_template, prompt_of
    from pipeline.use.chat.start import how
    from pipeline.use.engine.engine import Engine
    from pipeline.use.loaded import load
    from pipeline.use.serve.app import make_app
    from pipeline.use.serve.ending import Ending

    screen = Screen(console := make_console())
    with console.status(f"Loading {', '.join(one.name for one in subjects)}"):
        policies = load(subjects)
    for policy in policies:
        if note := give_template(policy):
            screen.say(note)
        prompt_of(policy, [turn("user", "?")])  # a broken template is told now
        defaults = Defaults.of(policy)
        unused = f" ({', '.join(defaults.unused)} of its generation config: not applied)" if defaults.unused else ""
        screen.say(f"{policy.subject.name}  {policy.subject.where}  {how(defaults.sampling)}{unused}")
    engine = Engine(policies, *limits)
    app = make_app(policies, engine, place.key, page)
    if page:
        screen.say(f"The page is at {place.url}/")
    screen.say(f"OpenAI clients take {place.url}/v1 as their base URL. Ctrl-C ends.")
    try:
        Ending(app, lambda: engine.under_way, screen.say).run(sockets=[bound])
    finally:
        engine.close()
