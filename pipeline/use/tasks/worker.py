"""The process that asks: it takes its job on standard input, tells of it in JSON lines on standard output, and dies with its parent.

Whatever else writes to the screen (libraries, tasks) ends up in `evaluate.log` beside the results.
"""

import json
import os
import sys
import threading
import traceback
from pathlib import Path

from pipeline.errors import MachineError, PipelineError
from pipeline.recipe.reading import load_recipe
from pipeline.train.job.machine import available_cores, before_imports, importing
from pipeline.use.subject import find
from pipeline.use.tasks.start import start_of
from pipeline.use.tasks.wanted import Wanted

LOG = "evaluate.log"


def main() -> None:
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    job = json.loads(sys.stdin.readline() or "null")
    if job is None:
        return

    def tell(kind: str, **said: object) -> None:
        out.write(json.dumps({"kind": kind} | said) + "\n")

    threading.Thread(target=_die_with_parent, daemon=True).start()
    place, code = Path(job["place"]), 0
    try:
        _log_to(place / LOG)
        tell("done", files=_run(job, place, lambda text: tell("say", text=text)))
    except PipelineError as error:
        traceback.print_exc()
        tell("error", what=error.what, fix=error.fix)
        code = error.exit_code
    except BaseException as error:
        traceback.print_exc()
        said = next(iter(str(error).splitlines()), "")
        fix = f"The whole story is in {place / LOG}."
        tell("error", what=f"evaluate failed: {type(error).__name__}: {said}", fix=fix)
        code = MachineError.exit_code
    sys.stderr.flush()
    os._exit(code)  # without the seconds that libraries spend on taking themselves apart


def _run(job: dict, place: Path, tell) -> list[str]:
    recipe, runs = load_recipe(Path(job["recipe"]), job["overrides"]), Path(job["runs"])
    subject = find(job["name"], recipe, runs)
    before, _ = start_of(subject, recipe, runs) if job["before"] else (None, "")
    threads = recipe.threads or min(available_cores(), 8)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    before_imports(any(one.model.bits for one in (subject, before) if one))
    with importing():
        import torch

        torch.set_num_threads(threads)
        from pipeline.use.tasks.evaluation import AFTER, BEFORE, Evaluation

    wanted = Wanted(**job["wanted"] | {"tasks": tuple(job["wanted"]["tasks"])})
    sides = ({BEFORE: before} if before else {}) | {AFTER: subject}
    return [str(file) for file in Evaluation(wanted, sides, place, runs, tell).run()]


def _log_to(file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        log = file.open("a", encoding="utf-8")
    except OSError as error:
        raise PipelineError(f"{file}: {error.strerror}.", "Make the folder writable: results are kept there.") from None
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)


def _die_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
