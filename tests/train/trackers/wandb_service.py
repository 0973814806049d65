"""A stand-in for W&B's service on this machine: it keeps the rows and summaries of runs, and knows no tables."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ENTITY = {"id": "E", "name": "me"}


class Service:
    def __init__(self):
        self.gone = False
        self.runs: dict[
            str, dict
        ] = {}  # by id: the lines of its history, the last of its summary, whether it has ended
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answering", (_Answering,), {"service": self}))
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.gone = True
        self.server.shutdown()
        self.server.server_close()

    def rows(self, name: str) -> list[tuple[int, dict]]:
        """(step, figures) as they came in."""
        lines = map(json.loads, self.runs[name]["history"])
        return [(one["_step"], {key: value for key, value in one.items() if key[0] != "_"}) for one in lines]

    def streamed(self, name: str, said: dict) -> dict:
        run = self.runs[name]
        for file, part in (said.get("files") or {}).items():
            if file == "wandb-history.jsonl":
                run["history"][part["offset"] :] = part["content"]
            elif file == "wandb-summary.json":
                run["summary"] = part["content"][-1]
        run["exit"] = said.get("exitcode", run.get("exit"))
        return {}

    def asked(self, said: dict) -> dict:
        name, query = said["variables"].get("name"), said["query"]
        if "RunResumeStatus" in query:
            return {"model": {"id": "P", "name": "align", "entity": ENTITY, "bucket": self._known(name)}}
        if "mutation UpsertBucket" in query:
            run = self.runs.setdefault(name, {"history": [], "summary": "{}"})
            project = {"id": "P", "name": "align", "entity": ENTITY}
            bucket = {"id": name, "name": name, "displayName": name, "config": "{}", "project": project}
            return {"upsertBucket": {"bucket": bucket | {"historyLineCount": len(run["history"])}, "inserted": True}}
        if "createRunFiles" in query:
            return {"createRunFiles": {"runID": name, "uploadHeaders": [], "files": []}}
        return {}

    def _known(self, name: str) -> dict | None:
        if (run := self.runs.get(name)) is None:
            return None
        counts = {"historyLineCount": len(run["history"]), "eventsLineCount": 0, "logLineCount": 0}
        tails = {"historyTail": json.dumps(run["history"][-1:]), "eventsTail": "[]", "summaryMetrics": run["summary"]}
        return (
            counts | tails | {"name": name, "displayName": name, "config": "{}", "wandbConfig": '{"t": 1}', "tags": []}
        )


class _Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    service: Service

    def do_POST(self):
        if self.service.gone:  # a connection that was open goes on in its thread
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        said = json.loads(body) if "json" in self.headers.get("Content-Type", "") else {}
        if self.path.endswith("file_stream"):
            answer = self.service.streamed(self.path.split("/")[-2], said)
        else:
            answer = {"data": self.service.asked(said) if "query" in said else {}}
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass
