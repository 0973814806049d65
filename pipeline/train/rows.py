"""The prepared rows of a stage: asked for by the stage itself, and by an earlier one that looks ahead."""

import shutil
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy

from pipeline.artifact.attempt import Attempt
from pipeline.data.prepare import account, kinds
from pipeline.data.prepare.cache import prepared_once
from pipeline.data.prepare.one_pass import Enough, Prepared
from pipeline.data.prepare.remarks import remarks
from pipeline.data.prepare.sides import HELD_OUT, TRAINED
from pipeline.data.prepare.table import PROMPT_HASH, longest, numbers
from pipeline.data.shapes.kinds import KINDS
from pipeline.data.tokens.encoder import Encoder
from pipeline.errors import PipelineError, Together
from pipeline.model import tokenizer as tokenizers
from pipeline.model.base import Base, positions
from pipeline.plan.memory import lengths
from pipeline.plan.methods import refuse_too_short, tuning
from pipeline.plan.planner import Planner
from pipeline.plan.positions import max_length
from pipeline.plan.step import EVALUATE, UP_TO_DATE, Step
from pipeline.recipe import function, steps
from pipeline.recipe.fields import effective
from pipeline.recipe.recipe import Recipe
from pipeline.reward.columns import refuse_unreadable
from pipeline.stage import specs
from pipeline.train.job.checked_job import CheckedJob

PROMPTS = "prompts_trained.u64"  # what stands for the prompts that a stage was trained on, see prepare.account


class StageRows:
    """The tokenizer and the rows of a stage, and a look at those of the stages that come after it."""

    def __init__(self, checked: CheckedJob, report: Callable[..., None]):
        self.job, self.recipe, self.planner, self.step = checked.job, checked.recipe, checked.planner, checked.step
        self.folder, self.threads, self.report = checked.folder, checked.machine["threads"], report
        self.spec, self.data, self.ranks = checked.spec, checked.settings.data, checked.ranks
        self._tried: set[tuple[str, str]] = set()  # functions, by the key that names them and their place

    def prepare(self) -> None:
        """Also load what the recipe names; all that is wrong, in this stage and in those to come, comes at once."""
        together, started = Together(), time.monotonic()
        self.report("phase", name="data")
        with together.noting():
            self._check(self.step)
            self.prepared  # noqa: B018 - its account comes first
        if self.job.ahead:
            planner = Planner(self.recipe, Path(self.job.runs), self.job.goals_policy, self.planner.digests)
            planned = {step.stage: step for step in planner.plan(self.job.goals)}
            for name in self.job.ahead:
                self.report("phase", name=f"rows of {name}")
                with together.noting():
                    self._check(planned[name])
                    overridden = planner.overridden(self.job.goals)
                    self._made(planned[name], self._tokenizer_ahead(planned[name], planned, overridden))
            self.report("looked_ahead", stages=self.job.ahead, seconds=time.monotonic() - started)
        together.tell()

    @cached_property
    def tokenizer(self) -> tokenizers.Prepared:
        """This stage's, and what was done to it."""
        parent = self.step.parent
        return self._tokenizer(self.step.stage, parent.folder if parent else None, self.step.base)

    @cached_property
    def prepared(self) -> Prepared:
        """This stage's rows. Their account is reported, and its lists are put into the stage's folder."""
        most = self.positions()
        made = self._made(self.step, self.tokenizer.tokenizer)
        if not self.ranks.first:
            return made
        for name in account.LISTS:
            (self.folder / name).unlink(missing_ok=True)
            if (made.folder / name).is_file():
                shutil.copyfile(made.folder / name, self.folder / name)
        wanted = effective(self.spec.config, self.step.given).get("max_length")
        if wanted and most and wanted > most:
            self.report("note", text=f"max_length is {most}: the model has no more positions")
        self.report("account", **made.account.summary())
        first = kinds.probed(self.data)
        if unused := kinds.unused(first, self.spec.row_kind):
            self.report("note", text=kinds.unused_said(unused))
        for remark in remarks(first, self.spec.row_kind, self.tokenizer.tokenizer):
            self.report("note", text=remark)
        self._compare_with_earlier_stages(made)
        return made

    def positions(self, step: Step | None = None) -> int | None:
        """How many the model has for the text of this stage, or of one that it looks ahead at: that may stand on a base
        that is still to be made."""
        step = step or self.step
        base = step.base or self.step.base
        method, fields = tuning(self.recipe, step.stage, step.parent)
        most = positions(self.recipe, base.source, base.commit)
        return most and most - method.positions(fields)

    def max_length(self) -> int | None:
        return max_length(self.step.stage, self.step.given, self.positions())

    def _tokenizer(self, stage: str, parent: Path | None, base: Base) -> tokenizers.Prepared:
        """The parent's, else the base's, else a new one."""
        recipe = self.recipe
        if parent and (parent / "tokenizer_config.json").is_file():
            made_here = Attempt(parent.parent).finished
            return tokenizers.inherited(parent, recipe.model, tried=made_here)
        if base.source is not None:
            return tokenizers.prepare(tokenizers.load(base.source, recipe.model, base.commit), recipe)
        return tokenizers.from_scratch(recipe, stage, recipe.stage(stage).data.pinned(self.planner.folder))

    def _tokenizer_ahead(self, step: Step, planned: dict[str, Step], overridden: str | None):
        """What a later stage will have: its parent's, which is this stage's own where that is still to be made."""
        if step.stage == self.step.stage:
            return self.tokenizer.tokenizer
        above = planned.get(self.recipe.parent(step.stage)) if step.stage != overridden else None
        if above and above.state not in (UP_TO_DATE, EVALUATE):
            return self._tokenizer_ahead(above, planned, overridden)
        parent = above.attempt.output if above else step.parent and step.parent.folder
        return self._tokenizer(step.stage, parent, step.base or self.step.base).tokenizer

    def _made(self, step: Step, tokenizer) -> Prepared:
        made = prepare(
            self.recipe,
            step.stage,
            self.planner.folder,
            given=self._given(step),
            contents=self.planner.contents.of(step.stage),
            tokenizer=tokenizer,
            most=self.positions(step),
            runs=Path(self.job.runs),
            threads=self.threads,
            report=self.report,
        )
        kind = KINDS[made.kind]
        lengths.remember(self.planner, step.stage, longest(made.folder / TRAINED, made.folder / HELD_OUT, kind))
        if rewards := self.recipe.stage(step.stage).rewards:
            refuse_unreadable(step.stage, rewards, made.placed())
        if not specs()[step.stage].response:  # where responses are sampled, the rows are not what a step takes
            self._refuse_too_short(step, len(made.trained))
        return made

    def _refuse_too_short(self, step: Step, rows: int) -> None:
        """Where the method of a stage needs more steps than its rows make."""
        method, fields = tuning(self.recipe, step.stage, step.parent)
        values = effective(specs()[step.stage].config, self._given(step))
        refuse_too_short(step.stage, method, fields, steps.of_rows(values, rows))

    def _check(self, step: Step) -> None:
        """The functions and the training arguments of a stage."""
        from pipeline.train.loop import arguments  # heavy

        name, settings = step.stage, self.recipe.stage(step.stage)
        arguments.check(name, specs()[name], self._given(step), self.recipe.model.dtype, self.folder)
        named = {f"stages.{name}.{one.key}": one.function for one in settings.rewards if one.is_in_file}
        named["evaluation.score_function"] = settings.evaluation.score_function
        for key, where in named.items():
            if where and (key, where) not in self._tried:
                self._tried.add((key, where))
                function.try_out(where, key)

    def _given(self, step: Step) -> dict:
        """The training arguments of a stage, also of one that cannot be planned yet."""
        return step.given or self.recipe.given(step.stage, full=False)

    def _compare_with_earlier_stages(self, prepared) -> None:
        """Say where held-out rows ask what an earlier stage was trained on: their figures are then not of new questions."""
        own, held_out = (numbers(rows, PROMPT_HASH) for rows in (prepared.trained, prepared.held_out))
        own = numpy.unique(own)
        (self.folder / PROMPTS).write_bytes(own.tobytes())
        for attempt in self.ancestors():
            if (attempt.folder / PROMPTS).is_file():
                trained = numpy.fromfile(attempt.folder / PROMPTS, dtype=own.dtype)
                if found := int(numpy.isin(held_out, trained).sum()):
                    text = f"{found} of {len(held_out)} held-out prompts were trained on in {attempt.manifest['stage']}"
                    self.report("note", text=text)
        if self.data.held_out_rows and (found := int(numpy.isin(held_out, own).sum())):
            text = f"{found} of {len(held_out)} held-out prompts are trained on in this very stage"
            self.report("note", text=text)
        if self.data.held_out and not len(held_out):
            all_rows = (
                "all rows begin with the same question" if len(own) == 1 else f"there are {len(own)} different ones"
            )
            self.report(
                "note",
                text=f"no row is held out, so there will be no figures: the share is taken by prompt, and {all_rows}; "
                "name a file of its own as data.held_out",
            )

    def ancestors(self) -> list[Attempt]:
        """The artifacts that the policy was trained in, one after the other, as far as they are there."""
        found, parent = [], self.step.parent.attempt if self.step.parent else None
        while parent and parent.finished:
            found.append(parent)
            above = parent.manifest["parents"].get("policy")
            parent = Attempt(Path(above["folder"]).parent) if above else None
        return found


def evaluated(held_out, most: int, mixture: bool):
    """The held-out rows that an evaluation of at most so many asks; of a mixture some of all its parts."""
    which = range(min(most, len(held_out)))
    if mixture:  # those with the smallest hashes
        which = sorted(numpy.argsort(numbers(held_out, PROMPT_HASH), kind="stable")[: len(which)])
    return held_out.select(which)


def prepare(
    recipe: Recipe,
    stage: str,
    folder: Path,
    *,
    given: dict,
    contents: dict,
    tokenizer,
    most: int | None,
    runs: Path,
    threads: int,
    report: Callable[..., None],
) -> Prepared:
    """The rows of a stage, made now or found in `runs`.

    `folder` is the recipe's own in `runs`, `given` the stage's training arguments, `contents` stands for what is in its
    files, `most` is the number of the model's positions. Raises PipelineError where they cannot be trained on.
    """
    data, spec = recipe.stage(stage).data.pinned(folder), specs()[stage]
    length = max_length(stage, given, most)

    def check(found: account.Account) -> None:
        if data.on_bad_row == "error":
            account.refuse_bad_rows(found, stage)
        account.refuse_empty(found, stage, data)

    encoder = Encoder(tokenizer, length, data.on_too_long, through_suffix=spec.head == "score", learn=data.learn)
    made = prepared_once(
        data,
        spec.row_kind,
        encoder,
        runs,
        contents=contents,
        enough=enough(recipe, stage, length),
        check=check,
        threads=threads,
        progress=lambda rows: report("rows", read=rows),
    )
    _refuse_one_kind(made, stage)
    return made


def _refuse_one_kind(made: Prepared, stage: str) -> None:
    if name := KINDS[made.kind].WANTED:
        values = numpy.unique(numbers(made.trained, name))
        if len(values) == 1:
            raise PipelineError(
                f"{stage}: the {name} of every row to train on is {bool(values[0])}: there is nothing to tell apart.",
                "Add rows of the other kind; wanted answers alone are for sft.",
            )


def enough(recipe: Recipe, stage: str, length: int | None) -> Enough | None:
    """What the stage's max_steps can use up of data that are not read to the end; None where all are read."""
    if (rows := recipe.rows_needed(stage)) is None:
        return None
    packing = recipe.stage(stage).train.get("packing", False)
    return Enough(tokens=rows * (length or 1)) if packing else Enough(pieces=rows)
