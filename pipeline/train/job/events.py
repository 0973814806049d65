"""What a stage's process tells whoever watches it: a JSON line an event, with its `kind` and the time, `at`."""

import json
import os
import time

from pipeline.ranks import ALONE, Ranks

# Each kind of event: what it says, and its fields.
EVENTS = {
    "phase": "something else is done now: name; with step where training goes on after it",
    "started": "the first of several processes of a machine is there: pid",
    "rows": "rows are being read: read, so many so far",
    "looked_ahead": "the rows of later stages are ready: stages, seconds",
    "account": "what became of the stage's rows: the fields of Account.summary",
    "note": "something that a person should know: text",
    "model": "it is loaded: trained, in all, each a number of parameters",
    "before": "the held-out figures before the first step: metrics",
    "train": "training begins: step, which is not 0 where it continues, and steps in all",
    "step": "a step is done: step, tokens so far",
    "log": "a line of log.jsonl that has a loss: step, loss and the other figures",
    "evaluated": "the held-out figures in the middle of training: step, metrics",
    "kept": "which step is kept: best, the figure that decided, step, value, last, the last step, and candidates",
    "interrupted": "the checkpoint that Ctrl-C or SIGTERM asked for is saved: step",
    "finished": "the manifest is written: folder, manifest",
    "shrunk": "memory ran out, and a fresh process continues with fewer rows at a time: text",
    "error": "what went wrong, before the process ends: what, fix",
}

OF_ANY = ("error", "shrunk", "started")  # what any of several processes tells; the rest is told by the first


class Channel:
    """The way to the parent: standard output, kept for it alone."""

    phase = "start"  # what was told last

    def __init__(self, ranks: Ranks = ALONE):
        """The way of one of several processes."""
        self.ranks = ranks
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)

    def report(self, kind: str, **fields: object) -> None:
        """Tell of an event: `kind` is one of EVENTS."""
        if kind == "phase":  # by now standard output is the stage's log
            self.phase = str(fields["name"])
            step = f" at step {fields['step']}" if "step" in fields else ""
            print(f"{time.strftime('%H:%M:%S')} {fields['name']}{step}", flush=True)
        if self.ranks.first or kind in OF_ANY:
            self._out.write(json.dumps({"kind": kind, "at": time.time()} | fields) + "\n")
