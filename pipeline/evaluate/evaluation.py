"""Held-out figures of a model, computed the same way before and after training."""

import math
import random
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from zlib import crc32

import numpy
import torch
from torch.nn.functional import logsigmoid

from pipeline.data.prepare.one_pass import CHUNK
from pipeline.data.shapes.example import Conversation, Example, Preference, Prompt
from pipeline.data.tokens.encoder import IGNORED, Encoder
from pipeline.errors import PipelineError
from pipeline.recipe import function

LOGITS_BYTES = 256 << 20  # the largest tensor of logits that an evaluation holds at a time


@dataclass
class Figures:
    """What one evaluation found. `metrics` are plain numbers with their `n` beside them.

    `completions` are greedy answers to the held-out prompts, in order; `margins` are, for each held-out
    pair, the policy's log p(chosen) - log p(rejected), summed over tokens.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    completions: list[str] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)

    def to_json(self) -> dict:
        return {"metrics": self.metrics, "completions": self.completions, "margins": self.margins}


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
        with untouched_random_state(), torch.no_grad(), _precision(model):
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
        figures.metrics |= {"preference_accuracy": _share_above(*means)} | self._baselines()
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
            "reward_accuracy": _share_above(chosen, rejected),
        } | self._baselines()

    def _baselines(self) -> dict[str, float]:
        """Preferring the longer answer (or the shorter, whichever is right more often) needs no model at all."""
        lengths = [[len(row[side]) for row in self.columns] for side in ("chosen_ids", "rejected_ids")]
        longer = _share_above(*lengths)
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
        ids, responses = self._generate_ids(model, prompts)
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
            metrics["nearest_question"] = self._matches(self._looked_up(), right) if known is None else known
            if settings.few_shot and before is None:
                shots = [self._few_shot(messages) for messages in asked]
                metrics["few_shot_exact_match"] = self._matches(self._generate(model, shots, stop="\n"), right)
        if settings.score_function:
            score = function.load(settings.score_function, "evaluation.score_function")
            metrics["mean_score"], now = self._judge(score, figures.completions)
            if before:
                metrics["win_rate"] = _share_above(now, self._judge(score, before.completions)[1])

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
        return float(numpy.mean([self._answer(text) == answer for text, answer in zip(texts, right, strict=True)]))

    def _looked_up(self) -> list[str]:
        """The answer of the nearest training question, by cosine of character trigrams: what mere memory would say."""
        asked = _trigrams([one.prompt for one in self.held_out])
        nearest = numpy.zeros(len(asked), dtype=int)
        likeness = numpy.full(len(asked), -1.0)
        for start in range(0, len(self.trained), CHUNK):
            like = asked @ _trigrams([one.prompt for one in self.trained[start : start + CHUNK]]).T
            like = like.round(4)  # of questions that are as near the first is taken, however a machine rounds
            better = like.max(axis=1) > likeness
            nearest[better] = start + like.argmax(axis=1)[better]
            likeness = numpy.maximum(likeness, like.max(axis=1))
        return [_reference(self.trained[int(number)]) for number in nearest]

    def _few_shot(self, asked: list[dict]) -> str:
        """Worked examples and then the question, as plain text: how a base that knows no template is asked."""
        step = max(len(self.trained) // self.settings.few_shot, 1)
        shots = [f"{one.prompt}\n{_reference(one)}\n\n" for one in self.trained[::step][: self.settings.few_shot]]
        return "".join(shots) + "\n".join(message["content"] for message in asked) + "\n"

    def _generate(self, model, prompts: Sequence[str], stop: str | None) -> list[str]:
        ids = [self.tokenizer(text, add_special_tokens=False).input_ids for text in prompts]
        texts = self._texts(self._generate_ids(model, ids)[1])
        return [text.split(stop)[0] for text in texts] if stop else texts

    def _texts(self, responses: Sequence[list[int]]) -> list[str]:
        return [self.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in responses]

    def _generate_ids(self, model, prompts: Sequence[list[int]]) -> tuple[list[list[int]], list[list[int]]]:
        """The prompts' tokens and greedy responses, each through its EOS, made in batches of like length."""
        tokenizer, settings = self.tokenizer, self.settings
        limit = getattr(model.config, "max_position_embeddings", None) or 1 << 30
        ids = [one[-max(limit - settings.max_new_tokens, 1) :] for one in prompts]
        order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
        responses: list[list[int]] = [[] for _ in ids]
        eos = tokenizer.eos_token_id
        device = next(model.parameters()).device
        for start in range(0, len(order), settings.batch_size):
            batch = order[start : start + settings.batch_size]
            inputs, mask = padded_rows([ids[number] for number in batch], tokenizer.pad_token_id, left=True)
            output = model.generate(
                input_ids=inputs.to(device),
                attention_mask=mask.to(device),
                max_new_tokens=settings.max_new_tokens,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
            for number, tokens in zip(batch, output[:, inputs.shape[1] :].tolist(), strict=True):
                responses[number] = tokens[: tokens.index(eos) + 1] if eos in tokens else tokens
        return ids, responses


def log_probabilities(model, rows: Sequence[tuple[list[int], list[int]]], pad: int) -> tuple[list[float], list[int]]:
    """For each (input ids, labels): the sum of the labels' log-probabilities (nats) and their number.

    Labels stand at their own position, as in training; those that are IGNORED are left out.
    """
    sums, counts = [0.0] * len(rows), [0] * len(rows)
    vocabulary = model.config.get_text_config().vocab_size
    for batch in _batches([len(ids) for ids, _ in rows], LOGITS_BYTES // (4 * vocabulary)):
        inputs, mask = padded_rows([rows[number][0] for number in batch], pad)
        labels, _ = padded_rows([rows[number][1] for number in batch], IGNORED)
        device = next(model.parameters()).device
        logits = model(input_ids=inputs.to(device), attention_mask=mask.to(device), use_cache=False).logits[:, :-1]
        targets = labels[:, 1:].to(device)
        loss = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none"
        ).view(targets.shape)
        for number, total, count in zip(
            batch, (-loss).sum(1).tolist(), (targets != IGNORED).sum(1).tolist(), strict=True
        ):
            sums[number], counts[number] = total, count
    return sums, counts


def scores(model, rows: Sequence[list[int]], pad: int) -> list[float]:
    """The reward of each token sequence."""
    found = [0.0] * len(rows)
    device = next(model.parameters()).device
    for batch in _batches([len(ids) for ids in rows], 1 << 14):
        inputs, mask = padded_rows([rows[number] for number in batch], pad)
        output = model(input_ids=inputs.to(device), attention_mask=mask.to(device)).logits
        for number, score in zip(batch, output.float().squeeze(-1).tolist(), strict=True):
            found[number] = score
    return found


def _batches(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Row numbers in batches of like length, each of at most `tokens` tokens with its padding, and of one row at least."""
    batch: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda number: lengths[number]):
        if batch and (len(batch) + 1) * lengths[number] > tokens:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def padded_rows(rows: Sequence[list[int]], value: int, *, left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, longest) tensors: the rows padded with `value`, and 1 where a token is real."""
    longest = max(map(len, rows))
    fill = [longest - len(row) for row in rows]
    padded = [[value] * n + row if left else row + [value] * n for row, n in zip(rows, fill, strict=True)]
    mask = [[0] * n + [1] * len(row) if left else [1] * len(row) + [0] * n for row, n in zip(rows, fill, strict=True)]
    return torch.tensor(padded), torch.tensor(mask)


def _asked(example: Conversation | Preference | Prompt) -> list[dict]:
    return example.messages[:-1] if isinstance(example, Conversation) else example.messages


def _reference(example: Conversation | Preference) -> str:
    return example.messages[-1]["content"] if isinstance(example, Conversation) else example.chosen


def _trigrams(texts: Sequence[str], buckets: int = 2048) -> numpy.ndarray:
    """(texts, buckets): how often each character trigram stands in a text, hashed and scaled to unit length."""
    counts = numpy.zeros((len(texts), buckets), dtype=numpy.float32)
    for row, text in zip(counts, texts, strict=True):
        letters = f"  {text.lower()} ".encode()
        for at in range(len(letters) - 2):
            row[crc32(letters[at : at + 3]) % buckets] += 1
    return counts / numpy.linalg.norm(counts, axis=1, keepdims=True)


def _share_above(these: Sequence[float], those: Sequence[float]) -> float:
    """How often one is above the other; ties count half."""
    return float(numpy.mean([(a > b) + 0.5 * (a == b) for a, b in zip(these, those, strict=True)]))


@contextmanager
def untouched_random_state():
    """Gives every random state back as it was: an evaluation must not change what is trained after it."""
    states = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        random.setstate(states[0])
        numpy.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if devices:
            torch.cuda.set_rng_state_all(devices)


def _precision(model):
    """The mixed precision that half-precision bases are trained in: their adapters are fp32."""
    device, dtype = next(model.parameters()).device.type, model.config.dtype
    half = dtype in (torch.bfloat16, torch.float16)
    return torch.autocast(device, dtype=dtype if half else torch.bfloat16, enabled=half)
