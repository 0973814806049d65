"""A judge behind an OpenAI-compatible address, on this machine: what it replies is a function of what it is asked."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_PARTS = re.compile(
    r"<question>\n(.*)\n</question>\n<answer_a>\n(.*)\n</answer_a>\n<answer_b>\n(.*)\n</answer_b>", re.DOTALL
)


@dataclass
class Asked:
    """Of a request: the parts of the question where it is one for a verdict, else None."""

    parts: tuple[str, str, str] | None
    body: dict
    key: str


@dataclass
class Server:
    url: str
    asked: list[Asked] = field(default_factory=list)

    @property
    def for_verdicts(self) -> list[Asked]:
        return [one for one in self.asked if one.parts]


@contextmanager
def judging(reply: Callable[[Asked], str | tuple[int, str] | None]) -> Iterator[Server]:
    """`reply` gives the judge's words, or (HTTP code, body), or None, which is never to answer."""
    server, done = Server(""), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            found = _PARTS.search(body["messages"][-1]["content"])
            one = Asked(found.groups() if found else None, body, self.headers.get("authorization", ""))
            server.asked.append(one)
            said = reply(one) if self.path == "/v1/chat/completions" else (404, "no such place")
            if said is None:
                done.wait(20)
                self.close_connection = True
                return
            code, text = said if isinstance(said, tuple) else (200, _completion(said))
            self.send_response(code)
            self.send_header("content-length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        done.set()
        http.shutdown()
        http.server_close()


def _completion(said: str) -> str:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": said}}]})


def better(worth: Callable[[str, str], float]) -> Callable[[Asked], str]:
    """Replies by a number for each (prompt, answer)."""

    def reply(one: Asked) -> str:
        if one.parts is None:
            return "yes"
        prompt, a, b = one.parts
        first, second = worth(prompt, a), worth(prompt, b)
        return "A" if first > second else "B" if second > first else "TIE"

    return reply
