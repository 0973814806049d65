"""A hub of data sets on this machine, for tests that download."""

import json
import re
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit


def lines(start: int, number: int) -> bytes:
    rows = [{"prompt": f"What is {n}?", "completion": f"{n}, it is"} for n in range(start, start + number)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


class Hub:
    """A hub of data sets: {name: {revision or commit: {path: content}}}; `requests` are what was asked of it."""

    def __init__(self):
        self.sets: dict[str, dict[str, dict[str, bytes]]] = {}
        self.branches: dict[tuple[str, str], str] = {}
        self.gated: set[str] = set()
        self.requests: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                hub.requests.append(f"{self.command} {unquote(urlsplit(self.path).path)}")
                status, headers, body = hub.answer(unquote(urlsplit(self.path).path))
                self.send_response(status)
                for key, value in (headers | {"Content-Length": str(len(body))}).items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def push(self, name: str, contents: dict[str, bytes | str], branch: str = "main") -> str:
        """Another commit on a branch; returns it."""
        contents = {path: one.encode() if isinstance(one, str) else one for path, one in contents.items()}
        commit = sha1(repr(sorted(contents.items())).encode()).hexdigest()
        self.sets.setdefault(name, {})[commit] = contents
        self.branches[name, branch] = commit
        return commit

    def answer(self, path: str) -> tuple[int, dict, bytes]:
        found = re.fullmatch(r"/(?:api/)?datasets/([^/]+/[^/]+)/(revision|tree|resolve)/([^/]+)/?(.*)", path)
        name, what, revision, file = found.groups() if found else ("", "", "", "")
        if name not in self.sets:
            return 401, {"X-Error-Code": "RepoNotFound"}, b"{}"
        commit = self.branches.get((name, revision), revision)
        contents = self.sets[name].get(commit)
        if contents is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        if what == "revision":
            siblings = [{"rfilename": one} for one in contents]
            return self.json({"_id": "0", "id": name, "sha": commit, "siblings": siblings, "tags": []})
        if what == "tree":
            return self.json([{"type": "file", "path": p, "size": len(c), "oid": etag(c)} for p, c in contents.items()])
        if name in self.gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b"{}"
        if file not in contents:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        return 200, {"ETag": f'"{etag(contents[file])}"', "X-Repo-Commit": commit}, contents[file]

    def json(self, value: object) -> tuple[int, dict, bytes]:
        return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()

    def downloads(self) -> list[str]:
        """The files that were downloaded, in order."""
        return [
            one.partition("/resolve/")[2].partition("/")[2] for one in self.requests if one.startswith("GET /datasets/")
        ]


def etag(content: bytes) -> str:
    return sha1(content).hexdigest()
