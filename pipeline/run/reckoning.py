"""How many optimizer steps of a method train on so many tokens: told by the first steps that it takes.

The stage is started as the recipe has it and watched: it says how many steps it would take, and after each how many
tokens it has trained on. As soon as that is enough to reckon with, it is stopped; nothing of it is kept but the numbers.
"""

import itertools
import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.artifact.writing import write_json
from pipeline.console.display import Display
from pipeline.errors import PipelineError
from pipeline.run.process import start_worker, watch
from pipeline.train.job.job import Job

STEPS, ROLLOUTS = 16, 2  # that have to be seen, as far as there are so many
KEPT = "reckoned.json"


@dataclass(frozen=True)
class Reckoned:
    """What a stage would do by its own settings."""

    steps: int
    tokens: float  # in all
    together: int  # steps that share what is trained on: those of one rollout, else 1

    def steps_for(self, tokens: float) -> int:
        """The number of steps that comes nearest to so many tokens, in whole rollouts."""
        return self.together * max(round(tokens / self.tokens * self.steps / self.together), 1)


def reckoned_from(counts: Sequence[int], steps: int) -> Reckoned:
    """`counts` are the tokens so far after each of the first steps, of `steps` in all."""
    new = [number for number, (was, now) in enumerate(itertools.pairwise([0, *counts])) if now > was]
    if len(counts) >= steps or len(new) < 2:  # it ended by itself
        done, tokens = len(counts), counts[-1]
    else:  # what the last of them began with is not used up
        done, tokens = new[-1], counts[new[-1] - 1]
    together = max((after - before for before, after in itertools.pairwise(new)), default=1)
    return Reckoned(steps, tokens / done * steps, together)


class Reckoning:
    """What is known of the stages of a trial, kept in its folder by what they train."""

    def __init__(self, folder: Path, display: Display):
        self.folder, self.display = folder, display
        try:
            self._known = json.loads((folder / KEPT).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._known = {}

    def of(self, job: Job) -> Reckoned:
        """Raises PipelineError where the stage cannot be trained. `job` is taken up in a folder of its own."""
        if job.fingerprint not in self._known:
            self._known[job.fingerprint] = asdict(self._tried(job))
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / KEPT, self._known)
        return Reckoned(**self._known[job.fingerprint])

    def _tried(self, job: Job) -> Reckoned:
        counts: list[int] = []
        steps = 0
        process = start_worker()

        def again() -> subprocess.Popen:
            """Nothing is saved, so it begins at its first step."""
            nonlocal process
            counts.clear()
            process = start_worker()
            return process

        def listen(event: dict) -> None:
            nonlocal steps
            if event["kind"] == "train":
                steps = event["steps"]
            elif event["kind"] == "step":
                counts.append(event["tokens"])
                if len(counts) >= STEPS and len(set(counts)) > ROLLOUTS:
                    process.kill()

        shutil.rmtree(job.folder, ignore_errors=True)
        try:
            code = watch(process, job, self.display, [listen], again=again)
        except PipelineError:
            if not counts:
                raise
            code = 0
        if code:
            raise KeyboardInterrupt
        shutil.rmtree(job.folder, ignore_errors=True)
        return reckoned_from(counts, steps)
