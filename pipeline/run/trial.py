"""A trial of methods: each trained from one and the same policy, on the same number of tokens, with several seeds, and all
judged by one evaluation.

What they start from is built as the recipe says, with its seed; a run then starts from that artifact's folder with a
seed of its own, so that nothing before it is trained again. The runs are artifacts like any others, found again by their
fingerprint, and lie together in runs/<recipe>/trial/, apart from the recipe's own.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pipeline.artifact import command
from pipeline.artifact.attempt import Attempt
from pipeline.console.display import Display
from pipeline.console.quiet import Quiet
from pipeline.errors import PipelineError
from pipeline.plan.step import RUN, UP_TO_DATE
from pipeline.recipe.fields import fields_of
from pipeline.run.common_evaluation import CommonEvaluation, judging
from pipeline.run.contestants import Contestant
from pipeline.run.outcome import Outcome
from pipeline.run.process import start_worker, watch
from pipeline.run.reckoning import Reckoned, Reckoning
from pipeline.run.standing import Standing, Stopped
from pipeline.stage import specs

FOLDER = "trial"
MANY = 10**9  # of what max_steps ends


class Trial:
    """One trial. `tokens` is how many each contestant is trained on; None: the fewest that one of them would by itself.
    `judge` names the stage of the first contestant's recipe whose held-out prompts and evaluation are used for all.
    """

    def __init__(
        self,
        contestants: Sequence[Contestant],
        runs: Path,
        *,
        seeds: int,
        tokens: int | None,
        judge: str | None,
        display: Display,
        quiet: Quiet,
    ):
        self.contestants, self.seeds, self.tokens = contestants, range(seeds), tokens
        self.display, self.quiet = display, quiet  # what they start from is built aloud, and they run quietly
        first, recipe = contestants[0], contestants[0].load()
        self.recipe, self.folder = recipe.name, runs / recipe.name / FOLDER
        stage = judging(recipe, judge, [one.stage for one in contestants])
        asked = replace(first, name=stage, stage=stage, overrides=first.common)
        self.standing = Standing(contestants, asked, runs, self.folder, display)
        self.evaluation = CommonEvaluation(asked, self.standing, quiet)
        self.failed: dict[str, str] = {}

    def run(self) -> tuple[list[Outcome], dict]:
        """(what became of each contestant, the figures of what all start from). Raises PipelineError, or Stopped."""
        self.standing.build()
        reckoned = self._reckoned()
        self.tokens = self.tokens or round(min((one.tokens for one in reckoned.values()), default=0))
        found: dict[str, list[Attempt]] = {name: [] for name in reckoned}
        for seed in self.seeds:
            for one in self.contestants:
                if one.name not in self.failed:
                    with self._out_if_it_fails(one):
                        found[one.name].append(self._trained(one, reckoned[one.name], seed))
        attempts = [attempt for some in found.values() for attempt in some]
        figures, start = self.evaluation.figures(attempts) if attempts else ({}, {})
        return [self._outcome(one, found.get(one.name, []), figures) for one in self.contestants], start

    def _reckoned(self) -> dict[str, Reckoned]:
        """By contestant what its recipe's own settings would train on; those that cannot be trained are out."""
        reckoning, found = Reckoning(self.folder, self.quiet), {}
        for one in self.contestants:
            with self._out_if_it_fails(one):
                overrides = [*self._given(one), f'stages.{one.stage}.train.save_strategy="no"']
                job = self.standing.job(one, overrides, self.standing.step(one, overrides), self.folder / ".reckoning")
                self.quiet.name = f"reckoning {one.name}"
                found[one.name] = reckoning.of(replace(job, mode=RUN, processes=1))
        return found

    def _trained(self, one: Contestant, own: Reckoned, seed: int) -> Attempt:
        """The finished attempt, made now or found."""
        stage, steps = one.stage, own.steps_for(self.tokens or 0)
        overrides = [*self._given(one), f"seed={seed}", f"stages.{stage}.train.max_steps={steps}"]
        if steps > own.steps and "total_episodes" in fields_of(specs()[stage].config):
            overrides.append(f"stages.{stage}.train.total_episodes={MANY}")  # max_steps says when it ends
        step = self.standing.step(one, overrides)
        known = step.state == UP_TO_DATE
        if not known:
            folder = step.known_attempt.folder
            command.record(folder, one.recipe, [*one.overrides, *overrides], None)
            self.quiet.name = f"seed {seed}  {one.name}"
            job = self.standing.job(one, overrides, step, folder)
            if code := watch(start_worker(processes=job.processes), job, self.quiet):
                raise Stopped(code)
        attempt = Attempt(step.known_attempt.folder)
        made = attempt.manifest
        took = "found" if known else f"{made['seconds']['training']:,.1f} s"
        self.display.say(f"  seed {seed}  {one.name}  {made['tokens']:,} tokens in {made['steps']:,} steps  {took}")
        return attempt

    def _given(self, one: Contestant) -> list[str]:
        """Its own evaluation is left out, and what it must keep with it: one judges all."""
        left_out = ["evaluation.max_rows=0", *(["must_keep={}"] if one.load().stages[one.stage].must_keep else [])]
        return [*self.standing.given(one), *(f"stages.{one.stage}.{key}" for key in left_out)]

    def _outcome(self, one: Contestant, attempts: Sequence[Attempt], figures: dict[str, dict]) -> Outcome:
        if reason := self.failed.get(one.name):
            return Outcome(one, failed=reason)
        return Outcome(one, tuple(attempts), tuple(figures[attempt.folder.name] for attempt in attempts))

    @contextmanager
    def _out_if_it_fails(self, one: Contestant) -> Iterator[None]:
        """The others go on."""
        try:
            yield
        except PipelineError as error:
            self.failed[one.name] = error.what
            self.display.say(f"  {one.name} failed and is out, the others go on: {error.what}")
