"""What a response is worth: the reward model's score, a function's, or both, weighted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.data.shapes.kinds import Prompt
from pipeline.errors import PipelineError
from pipeline.ppo.roles import reward_scores


@dataclass(frozen=True)
class Reward:
    """The recipe's reward. `suffix` is what the template writes after a stop token: the reward model was trained
    to give its score behind it.
    """

    tokenizer: object
    suffix: Sequence[int]
    use_model: bool
    function: Callable | None = None
    function_weight: float = 1.0

    def __call__(self, model, examples: Sequence[Prompt], prompts: Sequence[list[int]], responses: Sequence[list[int]]):
        """(rows,): one score a response. `responses` are token ids, with the stop token where there is one."""
        total = torch.zeros(len(responses))
        if self.use_model:
            eos = self.tokenizer.eos_token_id
            rows = [
                prompt + response + (list(self.suffix) if response[-1:] == [eos] else [])
                for prompt, response in zip(prompts, responses, strict=True)
            ]
            total += reward_scores(model, rows, self.tokenizer.pad_token_id)
        if self.function:
            texts = [self.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in responses]
            total += self.function_weight * self._called(examples, texts)
        return total

    def _called(self, examples: Sequence[Prompt], texts: list[str]) -> Tensor:
        """The function gets lists: prompts, completions, and each other column of the rows by its name."""
        names = dict.fromkeys(name for example in examples for name in example.columns)
        columns = {name: [example.columns.get(name) for example in examples] for name in names}
        scores = self.function(prompts=[example.prompt for example in examples], completions=texts, **columns)
        try:
            found = torch.tensor([float(score) for score in scores])
        except (TypeError, ValueError) as error:
            raise PipelineError(
                f"ppo: the reward function gave no numbers: {error}.", "Return one number a completion."
            ) from None
        if len(found) != len(texts) or not torch.isfinite(found).all():
            raise PipelineError(
                f"ppo: the reward function gave {len(found)} scores for {len(texts)} completions, "
                f"{int((~torch.isfinite(found)).sum())} of them not finite.",
                "Return one finite number a completion.",
            )
        return found
