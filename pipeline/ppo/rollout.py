"""One rollout: prompts answered by the policy, and all that is known of the answers before they are trained on."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.evaluate.forward import padded_rows
from pipeline.evaluate.generate import as_told


@dataclass
class Rollout:
    """Tensors of (rows, ...) on the CPU. `ids` and `mask` are (rows, prompt + response), prompts padded on the left and
    responses on the right; the others are (rows, response), or (rows,) for `scores`, `examples` and `stopped`.
    """

    ids: Tensor
    mask: Tensor
    response: Tensor  # 1 where a token of the response is real
    examples: Tensor  # which row of the data each prompt is
    scores: Tensor  # what the reward said, before clipping, scaling and penalties
    stopped: Tensor  # 1 where the response ends in EOS
    old: Tensor  # log-probabilities when it was sampled
    reference: Tensor
    entropy: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor

    def part(self, which: Sequence[int], device) -> "Rollout":
        """Some of its rows, without the columns in which all of them are padding."""
        prompt, longest = self.ids.shape[1] - self.response.shape[1], int(self.response[which].sum(1).max())
        first = int(self.mask[which].any(0).int().argmax())
        columns = {"ids": slice(first, prompt + longest), "mask": slice(first, prompt + longest)}
        return Rollout(
            **{
                name: tensor[which][:, columns.get(name, slice(longest))].to(device)
                if tensor.dim() == 2
                else tensor[which].to(device)
                for name, tensor in vars(self).items()
            }
        )

    def lengths(self) -> list[int]:
        """The real tokens of each row, prompt and response."""
        return self.mask.sum(1).tolist()

    def tensors(self) -> dict[str, Tensor]:
        return {name: tensor.contiguous() for name, tensor in vars(self).items()}


@torch.no_grad()
def answer(
    model, prompts: Sequence[list[int]], *, length: int, temperature: float, eos: int, pad: int, batch_size: int
) -> list[list[int]]:
    """Sampled responses, each up to and with its EOS where it has one. Uses the global random state."""
    device = model.get_input_embeddings().weight.device
    training = model.training
    model.eval()
    responses: list[list[int]] = []
    for start in range(0, len(prompts), batch_size):
        batch = prompts[start : start + batch_size]
        ids, mask = padded_rows(batch, pad, left=True)
        with as_told(model):
            output = model.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                max_new_tokens=length,
                do_sample=True,
                temperature=temperature,
                top_k=0,
                top_p=1.0,
                eos_token_id=eos,
                pad_token_id=pad,
                use_cache=True,
            )
        for tokens in output[:, ids.shape[1] :].tolist():
            responses.append(tokens[: tokens.index(eos) + 1] if eos in tokens else tokens)
    model.train(training)
    return responses


def padded(prompts: Sequence[list[int]], responses: Sequence[list[int]], pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """(ids, mask, response): prompts padded on the left, responses on the right, so that they meet in one column."""
    prompt_ids, prompt = padded_rows(prompts, pad, left=True)
    response_ids, response = padded_rows(responses, pad)
    return torch.cat([prompt_ids, response_ids], 1), torch.cat([prompt, response], 1), response
