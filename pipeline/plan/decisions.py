"""What is done with a stage whose inputs are known: decided by what there is of it already."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from pipeline.artifact.attempt import ROWS, Attempt, all_attempts, attempts
from pipeline.artifact.lock import held
from pipeline.errors import PipelineError
from pipeline.model import backend
from pipeline.model.backend import Backend
from pipeline.plan.changed import changes
from pipeline.plan.contents import Contents
from pipeline.plan.evaluations import Evaluations
from pipeline.plan.inputs import reference_key
from pipeline.plan.step import CONTINUE, EVALUATE, RUNNING, UP_TO_DATE, Step
from pipeline.stage import specs


class Decisions:
    """Completes the steps of one recipe with their state, the reason for it and their attempt."""

    def __init__(self, runs: Path, contents: Contents, evaluations: Evaluations):
        self.runs, self.contents, self.evaluations = runs, contents, evaluations

    def of(self, step: Step, folder: Path, backend_of: Callable[[], Backend], *, fresh: bool) -> Step:
        """`step` is to be run, as far as can be told without its attempts, which lie in `folder`; its inputs are known.

        `backend_of` raises PipelineError where the one that is asked for cannot be had. Raises PipelineError for an
        unfinished attempt that cannot go on.
        """
        inputs, name = step.known_inputs, step.known_fingerprint
        tries = attempts(folder, name)
        newest, finished = (tries[-1] if tries else None), [one for one in tries if one.finished]
        if fresh and newest and (newest.finished or newest.number == 1):
            made = Attempt(folder / f"{name}-{newest.number + 1}")
            why = f"FRESH: attempt {made.number}, beside {newest.folder.name}"
            return replace(step, why=why, attempt=made, backend=backend_of())
        if finished and not fresh:
            return self._finished(step, finished[-1], backend_of)
        if newest:
            return self._unfinished(step, newest, backend_of())
        why, changes = self._why_new(folder, inputs)
        if specs()[step.stage].reference_columns and self._reference_is_kept(inputs):
            why = f"{why}; what its reference says of the rows is kept"
        made = Attempt(folder / name)
        return replace(step, why=why, changes=changes, attempt=made, backend=backend_of())

    def _finished(self, step: Step, attempt: Attempt, backend_of: Callable[[], Backend]) -> Step:
        attempt.check_sizes()
        measured = attempt.manifest["evaluation"]
        if measured["sha256"] != self.evaluations.sha256(step.stage):
            plain = Backend(backend.TRANSFORMERS, "evaluation alone")
            changes = tuple(self.evaluations.changes(step.stage, measured["settings"]))
            why = f"{_first(changes)}; the weights stay"
            return replace(step, state=EVALUATE, why=why, changes=changes, attempt=attempt, backend=plain)
        why = f"trained {attempt.manifest['finished'][:16].replace('T', ' ')}"
        with suppress(PipelineError):  # what cannot be had is no matter where nothing is to be trained
            trained_with, chosen = attempt.manifest["run"]["backend"], backend_of()
            if chosen.name != trained_with and chosen.why == backend.ASKED:
                why = f"trained with {trained_with}; FRESH=1 (--fresh) trains it with {chosen.name}"
        return replace(step, state=UP_TO_DATE, why=why, attempt=attempt)

    def _unfinished(self, step: Step, attempt: Attempt, chosen: Backend) -> Step:
        step = replace(step, attempt=attempt, backend=chosen)
        if held(attempt):
            return replace(step, state=RUNNING, why="another run is working on it")
        checkpoints = attempt.checkpoints()
        if not checkpoints:
            stopped = "it was stopped before its first checkpoint"
            return replace(step, why=stopped if attempt.inputs else "begun, but nothing of it is kept yet")
        number = checkpoints[0][0]
        assert attempt.how is not None  # it is agreed before there is a checkpoint
        begun = attempt.how["backend"]
        if chosen.name != begun and chosen.why == backend.ASKED:
            raise PipelineError(
                f"{step.stage}: {attempt.folder} was begun with {begun} and cannot go on with {chosen.name}.",
                f"Continue it with {begun} (leave the switch out), or start another attempt with --fresh (FRESH=1).",
            )
        same = Backend(begun, "begun with it")
        return replace(step, state=CONTINUE, why=f"from step {number}", from_step=number, backend=same)

    def _why_new(self, folder: Path, inputs: dict) -> tuple[str, tuple[str, ...]]:
        """What is other than in the last attempt: in a few words, and one line a key."""
        earlier = next((said for one in all_attempts(folder) if (said := one.inputs)), None)
        if earlier is None:
            return "never run before", ()
        found = tuple(changes(self.contents, inputs["stage"], earlier, inputs))
        return _first(found), found

    def _reference_is_kept(self, inputs: dict) -> bool:
        return any((self.runs / ROWS).glob(f"*/{reference_key(inputs)}-*"))


def _first(changes: Sequence[str]) -> str:
    return f"{changes[0]} and {len(changes) - 1} more" if len(changes) > 1 else changes[0]
