"""What a response is worth: the reward model's score and those of functions, weighted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pipeline.data.shapes.kinds import Prompt
from pipeline.data.tokens.template import Template
from pipeline.recipe.rewards import MODEL
from pipeline.reward.adapter import reward_scores
from pipeline.reward.functions import Scorer


@dataclass(frozen=True)
class Part:
    """One of those that are added up. `score` takes the model, the rows' examples, and token ids of prompts and responses,
    these with the stop token where there is one; it gives one number a response.
    """

    name: str  # in the log
    weight: float
    score: Callable[[object, Sequence[Prompt], Sequence[list[int]], Sequence[list[int]]], list[float]]


@dataclass(frozen=True)
class Reward:
    """The recipe's reward. Called, it gives the total of each response."""

    tokenizer: object
    use_model: bool
    functions: Sequence[Scorer] = ()

    @cached_property
    def parts(self) -> list[Part]:
        model = [Part(MODEL, 1.0, self._by_model)] if self.use_model else []
        return model + [Part(one.named.name, one.named.weight, self._by(one)) for one in self.functions]

    @property
    def names(self) -> list[str]:
        return [part.name for part in self.parts]

    @property
    def weights(self) -> list[float]:
        return [part.weight for part in self.parts]

    def __call__(self, *given: object) -> Tensor:
        """(rows,): the weighted sum of `each`."""
        return self.total(self.each(*given))

    def each(self, *given: object) -> Tensor:
        """(rows, parts) on the CPU, of what `Part.score` takes."""
        return torch.stack([torch.tensor(part.score(*given)) for part in self.parts], 1)

    def total(self, each: Tensor) -> Tensor:
        """(rows,) of (rows, parts)."""
        total = torch.zeros(len(each))
        for weight, scores in zip(self.weights, each.unbind(1), strict=True):
            total += weight * scores
        return total

    def _by_model(self, model, examples, prompts, responses) -> list[float]:
        eos = self.tokenizer.eos_token_id
        rows = [
            prompt + response + (self._suffix if response[-1:] == [eos] else [])
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        return reward_scores(model, rows, self.tokenizer.pad_token_id).tolist()

    def _by(self, scorer: Scorer) -> Callable[..., list[float]]:
        def score(model, examples, prompts, responses) -> list[float]:
            eos = self.tokenizer.eos_token_id
            texts = [self.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in responses]
            return scorer(examples, texts, [ids[:-1] if ids[-1:] == [eos] else ids for ids in responses])

        return score

    @cached_property
    def _suffix(self) -> list[int]:
        """What the template writes after a stop token: the reward model was trained to give its score behind it."""
        return list(self.tokenizer(Template(self.tokenizer).suffix, add_special_tokens=False).input_ids)
