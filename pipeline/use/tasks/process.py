"""The process of an evaluation: started, given its job, and listened to until it is gone."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline import installing
from pipeline.errors import MachineError, PipelineError
from pipeline.use.packages import installed
from pipeline.use.tasks.wanted import Wanted
from pipeline.use.tasks.worker import LOG

EXTRA = "tasks"


def check_installed() -> None:
    """Raises PipelineError with the command that installs lm-eval."""
    if not installed("lm_eval"):
        raise PipelineError(
            "evaluate: asks benchmarks by lm-eval, which is not installed.",
            f"Install it: {installing.extra(EXTRA)} (`make evaluate` does so; 340 MB).",
        )


def evaluated(
    name: str,
    place: Path,
    wanted: Wanted,
    *,
    recipe: Path,
    overrides: Sequence[str],
    runs: Path,
    before: bool,
    tell: Callable[[str], None],
) -> list[Path]:
    """The files of the results, a task each. Raises PipelineError for what went wrong there."""
    job = {
        "name": name,
        "place": str(place),
        "wanted": wanted.to_json(),
        "recipe": str(recipe),
        "overrides": list(overrides),
        "runs": str(runs),
        "before": before,
    }
    # -P: a file of the user's named like a library must not be taken for it.
    command = [sys.executable, "-P", "-m", "pipeline.use.tasks.worker"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8", start_new_session=True
    )
    done = error = None
    try:
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        for line in process.stdout:
            event = json.loads(line)
            if event["kind"] == "say":
                tell(event["text"])
            elif event["kind"] == "error":
                error = event
            else:
                done = event
        code = process.wait()
    finally:
        process.kill()  # Ctrl-C: what was found so far is kept
    if error:
        raise (PipelineError if code == PipelineError.exit_code else MachineError)(error["what"], error["fix"])
    if done is None:
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        raise MachineError(
            f"evaluate: its process {how}.", f"What was found so far is kept; the story is in {place / LOG}."
        )
    return [Path(file) for file in done["files"]]
