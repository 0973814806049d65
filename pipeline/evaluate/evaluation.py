"""Held-out figures of a model, computed the same way before and after training."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy
import torch
from torch.nn.functional import logsigmoid

from pipeline.data.shapes.example import Conversation, Example, Preference, Prompt
from pipeline.data.tokens.encoder import IGNORED, Encoder
from pipeline.errors import PipelineError
from pipeline.evaluate.figures import Figures, share_above
from pipeline.evaluate.forward import log_probabilities, precision_of, scores, untouched_random_state
from pipeline.evaluate.generate import greedy
from pipeline.evaluate.lookup import nearest
from pipeline.recipe import function


@dataclass(frozen=True)
class Evaluation:
    """The held-out rows of a stage and how to judge a model by them.

    `trained` are the examples trained on: what a lookup may use, and few-shot prompts are made of.
    """

    settings: object  # the recipe's section `evaluation`
    tokenizer: object
    head: str
    kind: str  # of the rows
    held_out: Sequence[Example]  # none where they are texts
    columns: Sequence[dict]
    trained: Sequence[Example]
    beta: float | None = None  # DPO's, where its loss is the sigmoid one
    reward: Callable | None = None  # what scores responses to prompts alone, see pipeline.ppo.rewards

    def run(self, model, before: Figures | None = None) -> Figures:
        """Evaluate; `before` is the same evaluation of the policy that training started from."""
        figures = Figures()
        if not self.columns:
            return figures
        training = model.training
        model.eval()
        with untouched_random_state(), torch.no_grad(), precision_of(model):
            if self.kind in ("text", "conversation"):
                self._language_model(model, figures)
            elif self.head == "score":
                self._reward(model, figures)
            elif self.kind == "preference":
                self._preference(model, figures, before)
            if self.head == "causal" and self.kind != "text":
                self._answers(model, figures, before)
        model.train(training)
        return figures

    def _language_model(self, model, figures: Figures) -> None:
        """Loss in nats a token, over the tokens that carry loss."""
        rows = [(row["input_ids"], row.get("labels", row["input_ids"])) for row in self.columns]
        sums, counts = log_probabilities(model, rows, self.tokenizer.pad_token_id)
        loss = -sum(sums) / max(sum(counts), 1)
        figures.metrics |= {
            "loss": loss,
            "perplexity": math.exp(min(loss, 700)),
            "n": len(rows),
            "n_tokens": sum(counts),
        }

    def _preference(self, model, figures: Figures, before: Figures | None) -> None:
        """Accuracy: how often the mean log-probability per token prefers the chosen answer, ties counting half."""
        chosen, rejected = (
            log_probabilities(
                model,
                [(r["prompt_ids"] + r[side], [IGNORED] * len(r["prompt_ids"]) + r[side]) for r in self.columns],
                self.tokenizer.pad_token_id,
            )
            for side in ("chosen_ids", "rejected_ids")
        )
        means = [[s / max(n, 1) for s, n in zip(*side, strict=True)] for side in (chosen, rejected)]
        figures.margins = [c - r for c, r in zip(chosen[0], rejected[0], strict=True)]
        figures.metrics |= {"preference_accuracy": share_above(*means)} | self._baselines()
        if self.beta is not None:
            reference = before.margins if before else figures.margins
            gains = [m - r for m, r in zip(figures.margins, reference, strict=True)]
            figures.metrics["loss"] = float(-logsigmoid(self.beta * torch.tensor(gains, dtype=torch.float64)).mean())

    def _reward(self, model, figures: Figures) -> None:
        chosen, rejected = (
            scores(model, [row["prompt_ids"] + row[side] for row in self.columns], self.tokenizer.pad_token_id)
            for side in ("chosen_ids", "rejected_ids")
        )
        difference = torch.tensor(chosen, dtype=torch.float64) - torch.tensor(rejected, dtype=torch.float64)
        figures.metrics |= {
            "loss": float(-logsigmoid(difference).mean()),
            "reward_accuracy": share_above(chosen, rejected),
        } | self._baselines()

    def _baselines(self) -> dict[str, float]:
        """Preferring the longer answer (or the shorter, whichever is right more often) needs no model at all."""
        lengths = [[len(row[side]) for row in self.columns] for side in ("chosen_ids", "rejected_ids")]
        longer = share_above(*lengths)
        return {"guess_by_length": max(longer, 1 - longer), "n": len(self.columns)}

    def _answers(self, model, figures: Figures, before: Figures | None) -> None:
        """Greedy answers to the held-out prompts, judged as far as the recipe says how."""
        settings, encoder = self.settings, Encoder(self.tokenizer)
        asked = [_asked(one) for one in self.held_out]
        only_prompts = self.kind == "prompt"
        judged = settings.answer_pattern or settings.score_function or only_prompts
        number = len(asked) if judged else min(settings.samples, len(asked))
        tools = [one.tools for one in self.held_out]
        prompts = [encoder.prompt_ids(*one) for one in zip(asked[:number], tools[:number], strict=True)]
        ids, responses = greedy(model, self.tokenizer, prompts, self.settings)
        figures.completions = self._texts(responses)
        metrics = figures.metrics
        if only_prompts:
            metrics["n"] = len(asked)
            rewards = self.reward(model, self.held_out, ids, responses)
            metrics |= {"mean_reward": float(rewards.mean()), "reward_deviation": float(rewards.std(correction=0))}
            answers = [one.columns.get("answer") for one in self.held_out]
            if settings.answer_pattern and None not in answers:
                metrics["exact_match"] = self._matches(figures.completions, [str(answer) for answer in answers])
        elif settings.answer_pattern:
            right = [self._answer(_reference(one)) for one in self.held_out]
            metrics["exact_match"] = self._matches(figures.completions, right)
            # It needs no model, so it is what it was before.
            known = before.metrics.get("nearest_question") if before else None
            metrics["nearest_question"] = (
                self._matches([_reference(one) for one in nearest(self.held_out, self.trained)], right)
                if known is None
                else known
            )
            if settings.few_shot and before is None:
                shots = [self._few_shot(messages) for messages in asked]
                metrics["few_shot_exact_match"] = self._matches(self._generate(model, shots, stop="\n"), right)
        if settings.score_function:
            score = function.load(settings.score_function, "evaluation.score_function")
            metrics["mean_score"], now = self._judge(score, figures.completions)
            if before:
                metrics["win_rate"] = share_above(now, self._judge(score, before.completions)[1])

    def _judge(self, score: Callable, completions: Sequence[str]) -> tuple[float, list[float]]:
        marks = [score(one.prompt, text) for one, text in zip(self.held_out, completions, strict=True)]
        try:
            marks = [float(mark) for mark in marks]
        except (TypeError, ValueError) as error:
            raise PipelineError(
                f"evaluation.score_function gave no number: {error}.", "Return one number an answer."
            ) from None
        return float(numpy.mean(marks)), marks

    def _answer(self, text: str) -> str | None:
        """The part of a completion that the recipe's pattern takes for the answer; None where there is none."""
        found = re.search(self.settings.answer_pattern, text)
        return (found[1] if found.re.groups else found[0]).strip() if found else None

    def _matches(self, texts: Sequence[str], right: Sequence[str | None]) -> float:
        """Over the rows whose own answer the pattern finds. Raises PipelineError where it finds none."""
        known = [(text, answer) for text, answer in zip(texts, right, strict=True) if answer is not None]
        if not known:
            raise PipelineError(
                f"evaluation.answer_pattern: {self.settings.answer_pattern}: finds no answer in any of the {len(right)} "
                "held-out rows, so nothing could be right.",
                "Mend the pattern, or leave it out.",
            )
        return float(numpy.mean([self._answer(text) == answer for text, answer in known]))

    def _few_shot(self, asked: list[dict]) -> str:
        """Worked examples and then the question, as plain text: how a base that knows no template is asked."""
        step = max(len(self.trained) // self.settings.few_shot, 1)
        shots = [f"{one.prompt}\n{_reference(one)}\n\n" for one in self.trained[::step][: self.settings.few_shot]]
        return "".join(shots) + "\n".join(message["content"] for message in asked) + "\n"

    def _generate(self, model, prompts: Sequence[str], stop: str | None) -> list[str]:
        ids = [self.tokenizer(text, add_special_tokens=False).input_ids for text in prompts]
        texts = self._texts(greedy(model, self.tokenizer, ids, self.settings)[1])
        return [text.split(stop)[0] for text in texts] if stop else texts

    def _texts(self, responses: Sequence[list[int]]) -> list[str]:
        return [self.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in responses]


def _asked(example: Conversation | Preference | Prompt) -> list[dict]:
    return example.messages[:-1] if isinstance(example, Conversation) else example.messages


def _reference(example: Conversation | Preference) -> str:
    return example.messages[-1]["content"] if isinstance(example, Conversation) else example.chosen
