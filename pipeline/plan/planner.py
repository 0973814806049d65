"""What a command would do, and why: decided from the recipe, the data and the artifacts, without torch or a network."""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

from pipeline.artifact.digests import Digests
from pipeline.errors import PipelineError
from pipeline.hub import settle
from pipeline.model import backend
from pipeline.model.backend import Backend
from pipeline.model.base import Base, repository_of
from pipeline.plan import checks, graph, judges, measured, methods
from pipeline.plan.contents import Contents
from pipeline.plan.decisions import Decisions
from pipeline.plan.evaluations import Evaluations
from pipeline.plan.inputs import Inputs
from pipeline.plan.parents import Parents
from pipeline.plan.step import CONTINUE, RUN, RUNNING, UP_TO_DATE, Step
from pipeline.plan.tuning import Tuning
from pipeline.recipe import gates
from pipeline.recipe.recipe import Recipe
from pipeline.stage import specs
from pipeline.wording import did_you_mean

ONCE_THERE = "once its data are there"


class Planner:
    """Plans the stages of one recipe over one runs folder."""

    def __init__(
        self,
        recipe: Recipe,
        runs: Path,
        policy: str | None = None,
        digests: Digests | None = None,
        place: Path | None = None,
        *,
        for_card: bool = False,
    ):
        self.recipe = recipe
        self.runs = runs
        self.folder = runs / recipe.name
        self.policy = policy  # overrides the parent of the first goal
        self.place = place  # where attempts are kept that are none of the recipe's own
        self.for_card = for_card  # whether it is of a GPU that is asked about, which need not be here
        self.digests = digests or Digests(runs / ".digests.json")
        self.parents = Parents(recipe, self.folder, self.digests)
        self.contents = Contents(recipe, self.folder, self.digests)
        self.tuning = Tuning(recipe)
        self.inputs = Inputs(recipe, self.digests, self.contents, self.tuning)
        self.evaluations = Evaluations(recipe, self.digests)
        self.decisions = Decisions(runs, self.contents, self.evaluations)
        self._missing: dict[str, tuple[str, ...]] = {}  # by stage, what of its data is not there

    def overridden(self, goals: Iterable[str]) -> str | None:
        """The stage that starts from the policy given on the command line: the first of the goals."""
        return next(name for name in specs() if name in set(goals)) if self.policy else None

    def plan(self, goals: Iterable[str], fresh: Iterable[str] = (), *, without_data: bool = False) -> list[Step]:
        """The goals and what they stand on, parents first; those in `fresh` get another attempt.

        Raises PipelineError for what cannot be run; `without_data` leaves it to the step to say what of its data is not there.
        """
        if unknown := [goal for goal in goals if goal not in self.recipe.stages]:
            raise PipelineError(
                f"{self.recipe.path}: has no stage {', '.join(unknown)}{did_you_mean(unknown[0], self.recipe.stages)}.",
                f"It has {', '.join(self.recipe.stages)}.",
            )
        self.parents.forget()
        overridden = self.overridden(goals)
        names = graph.ordered(self.recipe, goals, overridden)
        measured.refuse_unmeasured(self.recipe, names, overridden)
        measured.refuse_no_choice(self.recipe, names)
        checks.files_there(self.recipe, names, data=not without_data)
        self._missing = {}
        if without_data:
            wrong = {name: checks.not_there(self.recipe.stage(name).data) for name in names}
            self._missing = {name: tuple(error.what for error in some) for name, some in wrong.items() if some}
        steps: dict[str, Step] = {}
        for name in names:
            above = self.recipe.parent(name) if name != overridden else None
            step = self.step(
                name,
                steps.get(above or ""),
                steps.get(self.recipe.reward(name) or ""),
                fresh=name in fresh,
                policy=self.policy if name == overridden else None,
            )
            notes = (*step.notes, *checks.notes(self.recipe, step), *judges.notes(self.recipe, step))
            step = replace(step, notes=notes, missing=self._missing.get(name, ()))
            if step.state == UP_TO_DATE:
                lost = gates.shortfalls(self.recipe.stages[name].must_keep, step.known_attempt.manifest)
                step = replace(step, falls_short=tuple(lost))
            steps[name] = step
        self.digests.save()
        judges.check(self.recipe, steps.values())
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
        model = self.recipe.model
        if first := [step.stage for step in (above, rewarding) if step and step.state in (RUN, CONTINUE, RUNNING)]:
            folders = {self.recipe.stage(one).policy for one in self.recipe.stages} - {None, *self.recipe.stages}
            if not policy and not folders:  # what a folder brings is seen when it is its turn
                methods.refuse(self.recipe, name, None, backend.model_config(self.parents.base(None), model.config))
            why = f"after {' and '.join(first)}" + (f", {ONCE_THERE}" if name in self._missing else "")
            return Step(name, RUN, why, after=first[0], backend=self._backend(name, above, policy))
        parent = self.parents.policy(name, above, policy)
        base = self.parents.base(parent)
        methods.refuse(self.recipe, name, parent, backend.model_config(base, model.config))
        if parent is None and base:
            methods.refuse_new_tokens(self.recipe, name, base)
        note = self.parents.check_base(name, parent) if parent and not above else None
        reward = self.parents.reward(name, rewarding, base)
        backend_of = partial(self._backend, name, above, policy, base)
        if unresolved := self._unresolved(name, base):
            return Step(name, RUN, unresolved, base=base, parent=parent, backend=backend_of())
        given = self.recipe.given(name, full=self.tuning.trains_model(name, parent))
        self.tuning.check(name, parent, above)
        known = Step(
            name,
            RUN,
            why="its inputs are known",
            inputs=self.inputs.of(name, parent, base, given, reward),
            parent=parent,
            reward=reward,
            base=base,
            given=given,
            notes=(note,) if note else (),
        )
        return self.decisions.of(known, self.place or self.folder / name, backend_of, fresh=fresh)

    def _unresolved(self, name: str, base: Base) -> str | None:
        """What of a stage's inputs is not there, or only the hub can tell."""
        if name in self._missing:
            return ONCE_THERE
        if base.identity is None:
            return "the base's commit is resolved at run"
        unknown = self.contents.unknown(name)
        return f"the commit of {', '.join(unknown)} is resolved at run" if unknown else None

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
            method=methods.tuning(self.recipe, name, None)[0],
            model_type=backend.model_config(base, config).get("model_type"),
            from_scratch=alone and config is not None,
            bits=self.recipe.model.bits,
            processes=self.recipe.launch.size,
            gpu=self.for_card,
        )

    def resolve_commits(self, steps: Iterable[Step]) -> bool:
        """Settle the commits of what the steps take from the hub.

        Returns whether any was unknown, so that to plan again tells more. Raises PipelineError where the hub cannot be
        asked.
        """
        steps = list(steps)
        new = any(self.contents.unknown(step.stage) for step in steps)
        for repository in {one for step in steps for one in self.recipe.stage(step.stage).data.data_sets()}:
            settle(repository, self.folder)
        if any(step.base and step.base.identity is None for step in steps):
            settle(repository_of(self.recipe), self.folder)
            new = True
        return new
