"""Held-out figures of a model, computed the same way before and after training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from pipeline.data.shapes.kinds import KINDS, Kind, Prompt
from pipeline.data.tokens.encoder import Encoder
from pipeline.errors import PipelineError
from pipeline.evaluate.figures import Figures, above
from pipeline.evaluate.forward import precision_of, untouched_random_state
from pipeline.evaluate.generate import greedy
from pipeline.evaluate.judge import Judge
from pipeline.evaluate.lookup import nearest
from pipeline.evaluate.measures import MEASURES, HeldOut
from pipeline.evaluate.texts import measure as measure_texts

READ_FOR_EACH_WRITTEN = 4  # rows that are only read need less memory than those that are answered, with all their past


@dataclass(frozen=True)
class Evaluation:
    """The held-out rows of a stage and how to judge a model by them.

    `trained` are the examples trained on: what a lookup may use, and few-shot prompts are made of; without them there
    is neither.
    """

    settings: object  # the recipe's section `evaluation`
    tokenizer: object
    head: str
    kind: str  # of the rows
    held_out: Sequence[Kind]  # none where they are texts
    columns: Sequence[dict]
    trained: Sequence[Kind]
    beta: float | None = None  # DPO's, where its loss is the sigmoid one
    reward: Callable | None = None  # what scores responses to prompts alone, see pipeline.reward.reward

    @cached_property
    def judge(self) -> Judge:
        return Judge(self.settings)

    def cut_short(self) -> tuple[int, int]:
        """(held-out rows whose own answer would be judged wrong if it were cut as a policy's is, rows that are judged)."""
        if self.head != "causal" or not self.judge.figure or not KINDS[self.kind].ASKS or KINDS[self.kind] is Prompt:
            return 0, 0
        references = [one.reference for one in self.held_out]
        known = [one for one, right in zip(references, self.judge.right(references), strict=True) if right is not None]
        whole = [self.tokenizer(one, add_special_tokens=False).input_ids for one in known]
        longer = [
            (text, self.tokenizer.decode(ids[: self.settings.max_new_tokens], skip_special_tokens=True))
            for text, ids in zip(known, whole, strict=True)
            if len(ids) > self.settings.max_new_tokens
        ]
        return sum(self.judge.answer(cut) != self.judge.answer(text) for text, cut in longer), len(known)

    def run(self, model, before: Figures | None = None) -> Figures:
        """Evaluate; `before` is the same evaluation of the policy that training started from."""
        figures = Figures()
        if not self.columns:
            return figures
        training = model.training
        model.eval()
        with untouched_random_state(), torch.no_grad(), precision_of(model):
            if measure := MEASURES.get((self.kind, self.head)):
                at_most = READ_FOR_EACH_WRITTEN * self.settings.batch_size
                held_out = HeldOut(self.columns, self.tokenizer.pad_token_id, at_most, self.beta)
                measure(model, held_out, figures, before)
            if self.head == "causal" and KINDS[self.kind].ASKS:
                self._answers(model, figures, before)
        model.train(training)
        return figures

    def _answers(self, model, figures: Figures, before: Figures | None) -> None:
        """Greedy answers to the held-out prompts, judged as far as the recipe says how."""
        settings, encoder = self.settings, Encoder(self.tokenizer)
        questions = [one.question for one in self.held_out]
        only_prompts = KINDS[self.kind] is Prompt
        judged = self.judge.figure or settings.score_function or settings.text or settings.judge or only_prompts
        number = len(questions) if judged else min(settings.samples, len(questions))
        tools = [one.tools for one in self.held_out]
        prompts = [encoder.prompt_ids(*one) for one in zip(questions[:number], tools[:number], strict=True)]
        ids, responses = greedy(model, self.tokenizer, prompts, self.settings)
        figures.completions = self._texts(responses)
        metrics = figures.metrics
        if only_prompts:
            metrics["n"] = len(questions)
            self._rewards(model, ids, responses, figures)
            answers = [one.columns.get("answer") for one in self.held_out]
            if self.judge.figure and None not in answers:
                # The row's may be the answer alone, or stand in a text as the policy's does.
                self._matches([self.judge.answer(str(answer)) or str(answer) for answer in answers], figures)
        elif self.judge.figure:
            right = self.judge.right([one.reference for one in self.held_out])
            self._matches(right, figures)
            # It needs no model, so it is what it was before.
            known = before.metrics.get("nearest_question") if before else None
            if known is None and self.worked:
                known = self.judge.matches([one.reference for one in nearest(self.held_out, self.worked)], right)
            if known is not None:
                metrics["nearest_question"] = known
            if settings.few_shot and before is None:
                shots = [self._few_shot(messages) for messages in questions]
                metrics["few_shot_exact_match"] = self.judge.matches(self._generate(model, shots, stop="\n"), right)
        if settings.text and not only_prompts:
            self._near(figures)
        if settings.score_function:
            now = self.judge.score(self.held_out, figures.completions)[1]
            figures.mean_of("mean_score", now)
            if before:
                figures.mean_of("win_rate", above(now, self.judge.score(self.held_out, before.completions)[1]))

    def _matches(self, right: Sequence[str | None], figures: Figures) -> None:
        """How many of the answers are right."""
        figures.mean_of(self.judge.figure, self.judge.each_match(figures.completions, right))
        if labels := self.judge.labels:
            labels.measure(figures.completions, right, figures)

    def _near(self, figures: Figures) -> None:
        """How near the answers are to the reference answers, of the rows that have one."""
        answered = zip(figures.completions, (one.reference for one in self.held_out), strict=True)
        known = [(text, reference) for text, reference in answered if reference is not None]
        if not known:
            said = f"evaluation.text: none of the {len(self.held_out)} held-out rows has a reference answer."
            raise PipelineError(said, "Leave it out of this stage.")
        measure_texts(self.settings.text, *zip(*known, strict=True), figures)

    @cached_property
    def worked(self) -> Sequence[Kind]:
        """The trained examples that have a right answer."""
        both = KINDS[self.kind].WANTED
        return [one for one in self.trained if one.reference is not None] if both else self.trained

    def _rewards(self, model, prompts: Sequence[list[int]], responses: Sequence[list[int]], figures: Figures) -> None:
        each = self.reward.each(model, self.held_out, prompts, responses)
        names = self.reward.names if len(self.reward.names) > 1 else ()
        rewards = {"mean_reward": self.reward.total(each)}
        rewards |= {f"reward_{name}": each[:, number] for number, name in enumerate(names)}
        figures.each |= {name: rows.tolist() for name, rows in rewards.items()}
        figures.metrics |= {name: float(rows.mean()) for name, rows in rewards.items()}
        figures.metrics["reward_deviation"] = float(rewards["mean_reward"].std(correction=0))

    def _few_shot(self, question: list[dict]) -> str:
        """Worked examples and then the question, as plain text: how a base that knows no template is asked."""
        step = max(len(self.worked) // self.settings.few_shot, 1)
        shots = [f"{one.prompt}\n{one.reference}\n\n" for one in self.worked[::step][: self.settings.few_shot]]
        return "".join(shots) + "\n".join(message["content"] for message in question) + "\n"

    def _generate(self, model, prompts: Sequence[str], stop: str | None) -> list[str]:
        ids = [self.tokenizer(text, add_special_tokens=False).input_ids for text in prompts]
        texts = self._texts(greedy(model, self.tokenizer, ids, self.settings)[1])
        return [text.split(stop)[0] for text in texts] if stop else texts

    def _texts(self, responses: Sequence[list[int]]) -> list[str]:
        return [self.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in responses]
