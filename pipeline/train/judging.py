"""What a judge says of a stage's answers: each held against the one that was given before, or the reference answer."""

from collections.abc import Callable, Sequence

from peft import PeftModel

from pipeline.artifact.attempt import Attempt
from pipeline.artifact.digests import Digests, weights_sha256
from pipeline.artifact.writing import write_json
from pipeline.data.shapes.kinds import Kind, Preference
from pipeline.data.tokens.encoded import Encoded
from pipeline.data.tokens.encoder import Encoder
from pipeline.errors import PipelineError
from pipeline.evaluate.evaluation import Evaluation
from pipeline.evaluate.figures import Figures
from pipeline.evaluate.pairwise.comparing import FILE, Verdicts, counted
from pipeline.evaluate.pairwise.verdicts import SAME, Pair, Verdict, by_score
from pipeline.evaluate.shares import JUDGED
from pipeline.plan.judges import judge_of, scoring_stage
from pipeline.plan.step import UP_TO_DATE, Parent
from pipeline.recipe.judging import Judge
from pipeline.reward.adapter import REWARD, add_reward, reward_scores
from pipeline.train.job.checked_job import CheckedJob

WIN_RATE, OVER_REFERENCE = JUDGED


class Judging:
    """Of one stage, by the judge that its evaluation names; without one nothing is done."""

    def __init__(self, checked: CheckedJob, report: Callable[..., None]):
        self.checked, self.report = checked, report
        self.summary: dict = {}  # for the manifest

    @property
    def judge(self) -> Judge | None:
        return judge_of(self.checked.recipe, self.checked.job.stage)

    def check(self, model) -> None:
        """Before the first step: a judge that is not there is found out now and not when all is trained."""
        if self.judge is None:
            return
        if not self.judge.reward:
            self.report("phase", name="looking for the judge")
            Verdicts(self.judge, self.checked.folder / FILE).check()
        elif self._reward and not isinstance(model, PeftModel):
            raise PipelineError(
                "evaluation.judge: reward: the reward model is an adapter on the policy's base, and here the whole model is "
                "trained.",
                "Name an address as the judge, or train an adapter.",
            )

    def after(self, model, evaluation: Evaluation, before: Figures, after: Figures) -> None:
        """Put the share that the judge prefers into the figures."""
        if self.judge is None or not after.completions:
            return
        self.report("phase", name="judging")
        rows = list(evaluation.held_out)[: len(before.completions)]
        if len(rows) < len(after.completions):
            text = f"the judge compares {len(rows)} answers: before the first step, as it was measured then, no more were given"
            self.report("note", text=text)
        if self.judge.against == "before":
            verdicts = self._verdicts(model, evaluation, rows, after.completions, before.completions)
            after.mean_of(WIN_RATE, [one.worth for one in verdicts if one.worth is not None])
            self._summarize(after=verdicts)
            return
        answers = zip(rows, before.completions, after.completions, strict=False)
        known = [one for one in answers if one[0].reference is not None]
        if not known:
            said = f"evaluation.judge: none of the {len(rows)} held-out rows has a reference answer."
            raise PipelineError(said, "Leave against: reference out, or leave the judge out of this stage.")
        rows, was, now = zip(*known, strict=True)
        references = [row.reference for row in rows]
        both = [self._verdicts(model, evaluation, rows, some, references) for some in (was, now)]
        judged = [pair for pair in zip(*both, strict=True) if None not in (pair[0].worth, pair[1].worth)]
        if judged:  # the same rows before and after
            before.mean_of(OVER_REFERENCE, [one.worth for one, _ in judged])
            after.mean_of(OVER_REFERENCE, [one.worth for _, one in judged])
        write_json(self.checked.folder / "before.json", before.to_json())
        self._summarize(before=both[0], after=both[1])

    def _summarize(self, **verdicts: Sequence[Verdict]) -> None:
        self.summary = {"by": self.judge.name, "against": self.judge.against}
        self.summary |= {when: counted(some) for when, some in verdicts.items()}
        if self.judge.reward:
            self.summary["weights_sha256"] = weights_sha256(self._reward.folder, Digests())

    def _verdicts(
        self, model, evaluation, rows: Sequence[Kind], one: Sequence[str], other: Sequence[str]
    ) -> list[Verdict]:
        pairs = [Pair(asked(row), *texts) for row, *texts in zip(rows, one, other, strict=False)]
        if self.judge.reward:
            return self._by_reward(model, evaluation, rows, pairs)
        return Verdicts(self.judge, self.checked.folder / FILE).of(pairs)

    def _by_reward(self, model, evaluation, rows: Sequence[Kind], pairs: Sequence[Pair]) -> list[Verdict]:
        """The one with the higher score, read as the reward model was trained: at the end of a rendered conversation."""
        if REWARD not in model.peft_config:
            add_reward(model, self._reward.folder)
        tokenizer = evaluation.tokenizer
        both = [
            Preference(row.question, pair.one, pair.other, row.tools) for row, pair in zip(rows, pairs, strict=True)
        ]
        encoded = list(Encoder(tokenizer, through_suffix=True).encode(both, Preference))
        found = [Verdict(SAME)] * len(pairs)  # also where they become the same tokens
        apart = [number for number, one in enumerate(encoded) if isinstance(one, Encoded)]
        columns = [encoded[number].pieces[0] for number in apart]
        scores = [
            reward_scores(model, [[*row["prompt_ids"], *row[side]] for row in columns], tokenizer.pad_token_id).tolist()
            for side in ("chosen_ids", "rejected_ids")
        ]
        for number, *pair in zip(apart, *scores, strict=True):
            found[number] = by_score(*pair)
        return found

    @property
    def _reward(self) -> Parent:
        """The reward model: that which the stage trains on, else the recipe's."""
        if self.checked.step.reward:
            return self.checked.step.reward
        name = scoring_stage(self.checked.recipe)
        step = self.checked.planner.plan([name])[-1]
        if step.state != UP_TO_DATE:
            raise PipelineError(f"evaluation.judge: reward: {name} is not trained.", f"Run {name} first.")
        attempt: Attempt = step.attempt
        return Parent(attempt.output, attempt.manifest["weights_sha256"], name, attempt)


def asked(row: Kind) -> str:
    """What was asked, as a judge reads it."""
    messages = row.question
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{one['role']}: {one['content']}" for one in messages)
