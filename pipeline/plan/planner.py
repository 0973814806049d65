"""What a command would do, and why: decided from the recipe, the data and the artifacts, without torch or a network."""

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from pipeline.artifact.attempt import ROWS, Attempt, all_attempts, attempts
from pipeline.artifact.digests import Digests, difference, fingerprint
from pipeline.artifact.lock import held
from pipeline.errors import PipelineError
from pipeline.hub import settle
from pipeline.model import backend
from pipeline.model.backend import Backend
from pipeline.model.base import Base, repository_of
from pipeline.plan import checks, graph
from pipeline.plan.inputs import Inputs, reference_key
from pipeline.plan.parents import Parents
from pipeline.plan.step import CONTINUE, EVALUATE, RUN, RUNNING, UP_TO_DATE, Step
from pipeline.recipe.recipe import Recipe
from pipeline.stage import specs
from pipeline.wording import did_you_mean


class Planner:
    """Plans the stages of one recipe over one runs folder."""

    def __init__(
        self,
        recipe: Recipe,
        runs: Path,
        policy: str | None = None,
        digests: Digests | None = None,
        place: Path | None = None,
    ):
        self.recipe = recipe
        self.runs = runs
        self.folder = runs / recipe.name
        self.policy = policy  # overrides the parent of the first goal
        self.place = place  # where attempts are kept that are none of the recipe's own
        self.digests = digests or Digests(runs / ".digests.json")
        self.parents = Parents(recipe, self.folder, self.digests)
        self.inputs = Inputs(recipe, self.folder, self.digests)

    def overridden(self, goals: Iterable[str]) -> str | None:
        """The stage that starts from the policy given on the command line: the first of the goals."""
        return next(name for name in specs() if name in set(goals)) if self.policy else None

    def plan(self, goals: Iterable[str], fresh: Iterable[str] = ()) -> list[Step]:
        """The goals and what they stand on, parents first; those in `fresh` get another attempt.

        Raises PipelineError for what cannot be run.
        """
        if unknown := [goal for goal in goals if goal not in self.recipe.stages]:
            raise PipelineError(
                f"{self.recipe.path}: has no stage {', '.join(unknown)}{did_you_mean(unknown[0], self.recipe.stages)}.",
                f"It has {', '.join(self.recipe.stages)}.",
            )
        self.parents.forget()
        overridden = self.overridden(goals)
        names = graph.ordered(self.recipe, goals, overridden)
        checks.files_there(self.recipe, names)
        steps: dict[str, Step] = {}
        for name in names:
            above = self.recipe.parent(name) if name != overridden else None
            step = self.step(
                name,
                steps.get(above),
                steps.get(self.recipe.reward(name)),
                fresh=name in fresh,
                policy=self.policy if name == overridden else None,
            )
            steps[name] = replace(step, notes=(*step.notes, *checks.notes(self.recipe, step)))
        self.digests.save()
        checks.trackers_installed(self.recipe, steps.values())
        return list(steps.values())

    def step(
        self,
        name: str,
        above: Step | None,
        rewarding: Step | None = None,
        *,
        fresh: bool = False,
        policy: str | None = None,
    ) -> Step:
        """One stage, given the steps of its parent stage and of its reward model's."""
        if first := [step.stage for step in (above, rewarding) if step and step.state in (RUN, CONTINUE, RUNNING)]:
            return Step(
                name, RUN, f"after {' and '.join(first)}", after=first[0], backend=self._backend(name, above, policy)
            )
        parent = self.parents.policy(name, above, policy)
        base = self.parents.base(parent)
        note = self.parents.check_base(name, parent) if parent and not above else None
        reward = self.parents.reward(name, rewarding, base)
        if base.identity is None:
            chosen = self._backend(name, above, policy, base)
            return Step(name, RUN, "the base's commit is resolved at run", base=base, parent=parent, backend=chosen)
        if unknown := self.inputs.unknown(name):
            chosen = self._backend(name, above, policy, base)
            why = f"the commit of {', '.join(unknown)} is resolved at run"
            return Step(name, RUN, why, base=base, parent=parent, backend=chosen)
        given = self.recipe.given(name, full=self.inputs.trains_model(name, parent))
        self.inputs.check_adapter(name, parent, above)
        inputs = self.inputs.of(name, parent, base, given, reward)
        common = {"inputs": inputs, "parent": parent, "base": base, "given": given, "reward": reward}
        common["notes"] = (note,) if note else ()
        backend_of = partial(self._backend, name, above, policy, base)
        stage_folder = self.place or self.folder / name
        tries = attempts(stage_folder, fingerprint(inputs))
        newest, finished = (tries[-1] if tries else None), [one for one in tries if one.finished]
        if fresh and tries and (newest.finished or newest.number == 1):
            made = Attempt(stage_folder / f"{fingerprint(inputs)}-{newest.number + 1}")
            return Step(
                name,
                RUN,
                f"FRESH: attempt {made.number}, beside {newest.folder.name}",
                attempt=made,
                backend=backend_of(),
                **common,
            )
        if finished and not fresh:
            return self._finished(name, finished[-1], common, backend_of)
        if newest:
            return self._unfinished(name, newest, common | {"backend": backend_of()})
        why, changes = self._why(stage_folder, inputs)
        if specs()[name].reference_columns and any((self.runs / ROWS).glob(f"*/{reference_key(inputs)}-*")):
            why = f"{why}; what its reference says of the rows is kept"
        made = Attempt(stage_folder / fingerprint(inputs))
        return Step(name, RUN, why, changes, attempt=made, backend=backend_of(), **common)

    def _finished(self, name: str, attempt: Attempt, common: dict, backend_of: Callable[[], Backend]) -> Step:
        attempt.check_sizes()
        if attempt.manifest["evaluation"]["sha256"] != self.inputs.evaluation_sha256(name):
            plain = Backend(backend.TRANSFORMERS, "evaluation alone")
            changes = tuple(self.inputs.evaluation_changes(name, attempt.manifest["evaluation"]["settings"]))
            why = f"{_first(changes)}; the weights stay"
            return Step(name, EVALUATE, why, changes, attempt=attempt, backend=plain, **common)
        why = f"trained {attempt.manifest['finished'][:16].replace('T', ' ')}"
        with suppress(PipelineError):  # what cannot be had is no matter where nothing is to be trained
            trained_with, chosen = attempt.manifest["run"]["backend"], backend_of()
            if chosen.name != trained_with and chosen.why == backend.ASKED:
                why = f"trained with {trained_with}; FRESH=1 (--fresh) trains it with {chosen.name}"
        return Step(name, UP_TO_DATE, why, attempt=attempt, **common)

    def _unfinished(self, name: str, attempt: Attempt, common: dict) -> Step:
        if held(attempt):
            return Step(name, RUNNING, "another run is working on it", attempt=attempt, **common)
        checkpoints = attempt.checkpoints()
        if not checkpoints:
            when = "before its first checkpoint" if attempt.inputs else "before it began"
            return Step(name, RUN, f"it was stopped {when}", attempt=attempt, **common)
        step = checkpoints[0][0]
        begun = json.loads((attempt.folder / "run.json").read_text(encoding="utf-8"))["backend"]
        chosen = common["backend"]
        if chosen.name != begun and chosen.why == backend.ASKED:
            raise PipelineError(
                f"{name}: {attempt.folder} was begun with {begun} and cannot go on with {chosen.name}.",
                f"Continue it with {begun} (leave the switch out), or start another attempt with --fresh (FRESH=1).",
            )
        common["backend"] = Backend(begun, "begun with it")
        return Step(name, CONTINUE, f"from step {step}", attempt=attempt, from_step=step, **common)

    def _backend(self, name: str, above: Step | None, policy: str | None, base: Base | None = None) -> Backend:
        """What will load and run the model. `base` is None where the parent is still to be built."""
        config = self.recipe.model.config
        wanted, own = self.recipe.wants_unsloth(name)
        alone = above is None and not (policy or self.recipe.stage(name).policy)
        return backend.choose(
            name,
            specs()[name],
            wanted,
            own=own,
            method=self.recipe.stage(name).adapter["method"],
            model_type=backend.model_type(base, config),
            from_scratch=alone and config is not None,
        )

    def _why(self, stage_folder: Path, inputs: dict) -> tuple[str, tuple[str, ...]]:
        earlier = next((one for one in all_attempts(stage_folder) if one.inputs), None)
        if earlier is None:
            return "never run before", ()
        changes = tuple(self.inputs.renamed(inputs["stage"], change) for change in difference(earlier.inputs, inputs))
        return _first(changes), changes

    def resolve_commits(self, steps: Iterable[Step]) -> bool:
        """Settle the commits of what the steps take from the hub; whether any was unknown, so that to plan again tells more.

        Raises PipelineError where the hub cannot be asked.
        """
        steps = list(steps)
        new = any(self.inputs.unknown(step.stage) for step in steps)
        for repository in {one for step in steps for one in self.recipe.stage(step.stage).data.data_sets()}:
            settle(repository, self.folder)
        if any(step.base and step.base.identity is None for step in steps):
            settle(repository_of(self.recipe), self.folder)
            new = True
        return new


def _first(changes: Sequence[str]) -> str:
    return f"{changes[0]} and {len(changes) - 1} more" if len(changes) > 1 else changes[0]
