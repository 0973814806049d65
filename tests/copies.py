"""`align` as a copy of a process in which the libraries are loaded, for the tests of what a command does.

Each stage has a process of its own, and to load TRL takes it several seconds, in which nothing is tested. Here one
process loads it once (`Loaded`); each command is a copy of that one (a fork), and so are the processes of its stages.
All else is as ever: the files, the pipes, the exit codes, the memory. That real processes leave the same, to the bit,
is held by tests/train/test_chain.py and test_resume.py. What depends on how a process starts (a kill, Unsloth,
bitsandbytes, another environment) is tested with real ones.
"""

import atexit
import importlib
import json
import os
import random
import subprocess
import sys
import traceback
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import ClassVar, NoReturn

from pipeline.model.backend import has_gpu

WITH_STAGES = ("run", "compare")  # the commands that start a stage's process
READ_ONCE = ("HOME", "HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_TOKEN", "PYTHONPATH")  # on loading


def as_loaded() -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in READ_ONCE}


class Loaded:
    """That process, as the tests have it."""

    def __init__(self):
        self.loaded_with = as_loaded()
        self.process = subprocess.Popen(
            [sys.executable, "-P", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    @property
    def fits(self) -> bool:
        """Whether it loaded the libraries as they would be loaded now."""
        return as_loaded() == self.loaded_with and not has_gpu()  # a GPU cannot be used in copies

    def align(self, arguments: list[str], cwd: Path, first: str) -> subprocess.CompletedProcess:
        with TemporaryDirectory() as folder:
            job = {"arguments": arguments, "cwd": str(cwd), "said": folder, "first": first}
            job |= {"environment": dict(os.environ)}
            self.process.stdin.write(json.dumps(job) + "\n")
            self.process.stdin.flush()
            code = self.process.stdout.readline()
            assert code, "the process that is copied has ended; what it said stands above"
            said = [(Path(folder) / name).read_text(encoding="utf-8") for name in ("out", "err")]
        return subprocess.CompletedProcess(["align", *arguments], int(code), *said)

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()


@cache
def loaded() -> Loaded:
    """One for all tests of this process."""
    process = Loaded()
    atexit.register(process.end)
    return process


class StageProcess:
    """A copy that is a stage's process: what `subprocess.Popen` gives, as far as pipeline/run/ asks it."""

    ours: ClassVar[list[int]] = []  # our ends of all pipes: a copy that held one would not let another hear we are gone

    def __init__(self, command: list[str], **_):
        theirs, ours = os.pipe()
        told, telling = os.pipe()
        StageProcess.ours += [ours, told]
        self.args, self.returncode, self.pid = command, None, os.fork()
        if not self.pid:
            os.setsid()
            for end in StageProcess.ours:
                os.close(end)
            os.dup2(theirs, 0)
            os.dup2(telling, 1)
            sys.path[:] = [one for one in sys.path if one != os.getcwd()]
            _be("pipeline.train.worker", command[command.index("pipeline.train.worker") + 1 :])
        os.close(theirs)
        os.close(telling)
        self.stdin = os.fdopen(ours, "w", encoding="utf-8", closefd=False)
        self.stdout = os.fdopen(told, encoding="utf-8", closefd=False)

    def poll(self, how: int = os.WNOHANG) -> int | None:
        if self.returncode is None and (ended := os.waitpid(self.pid, how))[0]:
            self.returncode = os.waitstatus_to_exitcode(ended[1])
        return self.returncode

    def wait(self) -> int:
        return self.poll(0)

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, 9)


def _be(module: str, arguments: list[str]) -> NoReturn:
    """What `python -m MODULE` would do, in this copy."""
    sys.argv = [module, *arguments]
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
    code = 0
    try:
        importlib.import_module(module).main()
    except SystemExit as end:
        code = end.code or 0
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _do(job: dict) -> NoReturn:
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["environment"])
    sys.path.insert(0, job["cwd"])  # as `python -m` does, and not `python -P -m`, see StageProcess
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # not the jobs that are still to come
    random.seed()  # what is drawn without a seed differs, as it does in processes of their own
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(Path(job["said"]) / name, os.O_WRONLY | os.O_CREAT), number)
    exec(job["first"], {"__name__": "first"})
    from pipeline.run import process

    process.subprocess = SimpleNamespace(Popen=StageProcess, PIPE=subprocess.PIPE)
    _be("pipeline.cli.main", job["arguments"])


def _load() -> None:
    """What a stage's process loads."""
    from pipeline.train.job.machine import before_imports

    before_imports(bitsandbytes=False)
    import trl

    from pipeline.stage import specs

    for module in ("pipeline.train.worker", "pipeline.train.stage_run", *(f"stages.{name}" for name in specs())):
        importlib.import_module(module)
    for name in ("SFTTrainer", "DPOTrainer", "RewardTrainer"):
        getattr(trl, name)  # loaded when it is asked for


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # for what libraries say
    import pipeline.cli.main  # noqa: F401

    for line in sys.stdin:
        job = json.loads(line)
        if job["arguments"][0] in WITH_STAGES and "trl" not in sys.modules:
            _load()
        if not (copy := os.fork()):
            _do(job)
        print(os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1]), file=answers, flush=True)


if __name__ == "__main__":
    main()
