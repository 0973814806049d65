"""A hub of models on 127.0.0.1, as far as the hub's own client needs it to write and to read: what arrives is kept in memory."""

import base64
import json
import re
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_ThisIsTheSecretOfAda"
OWNER = "ada"


class Repository:
    """`commits` are (id, {path: content}), the newest last."""

    def __init__(self, private: bool):
        self.private = private
        self.commits: list[tuple[str, dict[str, bytes]]] = []
        self.commit({".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})

    def commit(self, files: dict[str, bytes]) -> str:
        self.commits.append((sha1(repr([len(self.commits), *sorted(files.items())]).encode()).hexdigest(), files))
        return self.commits[-1][0]

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1][1]


class Hub:
    """`broken` is how many more uploads of large files get through before the network fails; None: all of them."""

    def __init__(self):
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.received: list[str] = []  # the digests of large files, as they arrived
        self.broken: int | None = None
        self.suffixes = (".safetensors", ".gguf")  # of what it wants as large files
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Transfer-Encoding") == "chunked":
                    body = self.chunks()
                path = unquote(urlsplit(self.path).path)
                known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
                status, headers, answer = hub.answer(self.command, path, body, known)
                self.send_response(status)
                for key, value in ({"Content-Length": str(len(answer))} | headers).items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer)

            do_GET = do_HEAD = do_POST = do_PUT = handle_any

            def chunks(self) -> bytes:
                found = b""
                while size := int(self.rfile.readline(), 16):
                    found += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return found

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def environment(self, home: object) -> dict[str, str]:
        """What leads a process of its own here."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_CACHE": f"{home}/hub",
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    def answer(self, method: str, path: str, body: bytes, known: bool) -> tuple[int, dict, bytes]:
        if found := re.fullmatch(r"/lfs/([0-9a-f]{64})", path):
            return self._upload(found[1], body)
        if path == "/api/repos/create":
            return self._create(json.loads(body), known)
        if path == "/api/whoami-v2":
            return _json({"name": OWNER, "orgs": [{"name": "guild"}]}) if known else (401, {}, b'{"error": "Invalid"}')
        if path == "/api/validate-yaml":
            return self._validate(json.loads(body)["content"])
        found = re.fullmatch(r"(?:/api/models)?/([^/]+/[^/]+?)(\.git/info/lfs/objects/batch|/.*)?", path)
        name, what = found.groups() if found else ("", "")
        repository = self.repositories.get(name)
        if repository is None or (repository.private and not known):
            return 401 if not known else 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        if method in ("POST", "PUT") and not (known and name.startswith(f"{OWNER}/")):
            return 403, {}, b'{"error": "You do not have the rights to write here"}'
        return self._of(name, repository, what or "", body)

    def _of(self, name: str, repository: Repository, what: str, body: bytes) -> tuple[int, dict, bytes]:
        if what.startswith("/preupload/"):
            return _json({"files": [self._mode(repository, one) for one in json.loads(body)["files"]]})
        if what.startswith(".git"):
            return _json({"objects": [self._batch(one) for one in json.loads(body)["objects"]]})
        if what.startswith("/commit/"):
            return self._commit(name, repository, [json.loads(line) for line in body.decode().splitlines()])
        if found := re.fullmatch(r"/resolve/([^/]+)/(.+)", what):
            return self._resolve(repository, *found.groups())
        if found := re.fullmatch(r"/tree/([^/]+)", what):
            return _json([_entry(name, content) for name, content in self._at(repository, found[1])[1].items()])
        if what.startswith("/tree/"):  # of a folder
            return 404, {"X-Error-Code": "EntryNotFound"}, b"{}"
        commit, files = self._at(repository, what.removeprefix("/revision/") or "main")
        siblings = [{"rfilename": one, **_entry(one, content)} for one, content in files.items()]
        return _json({"id": name, "sha": commit, "private": repository.private, "siblings": siblings, "tags": []})

    def _at(self, repository: Repository, revision: str) -> tuple[str, dict[str, bytes]]:
        return next((one for one in repository.commits if one[0] == revision), repository.commits[-1])

    def _create(self, said: dict, known: bool) -> tuple[int, dict, bytes]:
        name = f"{said['organization']}/{said['name']}"
        if not known:
            return 401, {}, b'{"error": "Invalid username or password."}'
        if said["organization"] != OWNER:
            return 403, {}, b'{"error": "You do not have the rights to create a model under this namespace"}'
        self.repositories[name] = Repository(said.get("visibility") == "private" or said.get("private") is True)
        return _json({"url": f"{self.url}/{name}", "id": name})

    def _validate(self, content: str) -> tuple[int, dict, bytes]:
        """As the hub does: metadata that is no mapping, and a model-index without its parts, are refused."""
        said = yaml.safe_load(content.split("---")[1])
        wrong = [] if isinstance(said, dict) else ["metadata must be a mapping"]
        if (said or {}).get("license", "mit") not in ("mit", "apache-2.0"):
            wrong.append('"license" must be one of [apache-2.0, mit]')
        for model in (said or {}).get("model-index", ()):
            for result in model["results"]:
                wrong += (
                    [] if result["dataset"]["type"] and result["metrics"] else ["model-index: a result lacks its parts"]
                )
        errors = [{"message": one} for one in wrong]
        return (
            (400 if wrong else 200),
            {"Content-Type": "application/json"},
            json.dumps({"errors": errors, "warnings": []}).encode(),
        )

    def _mode(self, repository: Repository, said: dict) -> dict:
        mode = "lfs" if said["path"].endswith(self.suffixes) else "regular"
        content = repository.files.get(said["path"])
        oid = _entry(said["path"], content)["oid"] if content is not None else None
        if content is not None and mode == "lfs":
            oid = sha256(content).hexdigest()
        return {"path": said["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid}

    def _batch(self, said: dict) -> dict:
        upload = {"upload": {"href": f"{self.url}/lfs/{said['oid']}?X-Amz-Signature=signed"}}
        return said if said["oid"] in self.large else said | {"actions": upload}

    def _upload(self, digest: str, body: bytes) -> tuple[int, dict, bytes]:
        if self.broken is not None:
            self.broken -= 1
            if self.broken < 0:
                return 400, {}, b"the line broke"
        assert sha256(body).hexdigest() == digest
        self.large[digest] = body
        self.received.append(digest)
        return 200, {}, b""

    def _commit(self, name: str, repository: Repository, lines: list[dict]) -> tuple[int, dict, bytes]:
        files = dict(repository.files)
        for line in lines:
            value = line["value"]
            if line["key"] == "header" and value.get("parentCommit") not in (None, repository.commits[-1][0]):
                return 412, {}, b'{"error": "A commit has happened since."}'
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        commit = repository.commit(files)
        return _json({"commitUrl": f"{self.url}/{name}/commit/{commit}", "commitOid": commit, "pullRequestUrl": None})

    def _resolve(self, repository: Repository, revision: str, name: str) -> tuple[int, dict, bytes]:
        commit, files = self._at(repository, revision)
        if name not in files:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
        return 200, {"ETag": f'"{_entry(name, files[name])["oid"]}"', "X-Repo-Commit": commit}, files[name]


def _entry(name: str, content: bytes) -> dict:
    said = {
        "type": "file",
        "path": name,
        "size": len(content),
        "oid": sha1(f"blob {len(content)}\0".encode() + content).hexdigest(),
    }
    if name.endswith((".safetensors", ".gguf")):
        said["lfs"] = {
            "oid": sha256(content).hexdigest(),
            "sha256": sha256(content).hexdigest(),
            "size": len(content),
            "pointerSize": 130,
        }
    return said


def _json(value: object) -> tuple[int, dict, bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()
