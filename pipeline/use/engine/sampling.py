"""The next token of each row, chosen as its request says."""

from collections.abc import Sequence

import torch

from pipeline.use.engine.request import Sampling


def choose(
    logits: torch.Tensor, how: Sampling, seen: Sequence[int], draw: float, said: Sequence[int] = ()
) -> torch.Tensor:
    """Of one row's logits (vocabulary,) the chosen token, as a tensor of no dimension.

    `seen` are the tokens of prompt and answer so far, `said` those of the answer; `draw` is uniform on [0, 1).
    """
    if how.repetition_penalty != 1:
        logits = _penalized(logits, how.repetition_penalty, seen)
    if said and (how.frequency_penalty or how.presence_penalty):
        logits = _said_before(logits, how, said)
    if how.temperature == 0:
        return logits.argmax()
    scaled, ids = logits / how.temperature, None
    if 0 < how.top_k < len(scaled):
        scaled, ids = scaled.topk(how.top_k)
    elif how.top_p < 1:
        scaled, ids = scaled.sort(descending=True)
    chances = scaled.softmax(-1)
    if how.top_p < 1:  # the fewest that together reach top_p
        chances = chances * (chances.cumsum(-1) - chances < max(how.top_p, 1e-9))
    if how.min_p:
        chances = chances * (chances >= how.min_p * chances.max())
    summed = chances.cumsum(-1)
    at = torch.searchsorted(summed, draw * summed[-1:], right=True).clamp(max=len(summed) - 1)[0]
    return at if ids is None else ids[at]


def _penalized(logits: torch.Tensor, penalty: float, seen: Sequence[int]) -> torch.Tensor:
    """Every token that was there is less likely (https://arxiv.org/abs/1909.05858, section 4.1)."""
    ids = torch.tensor(sorted(set(seen)), device=logits.device)
    old = logits[ids]
    return logits.index_put((ids,), torch.where(old < 0, old * penalty, old / penalty))


def _said_before(logits: torch.Tensor, how: Sampling, said: Sequence[int]) -> torch.Tensor:
    """OpenAI's penalties: https://platform.openai.com/docs/api-reference (frequency_penalty, presence_penalty)."""
    ids, counts = torch.tensor(said, device=logits.device).unique(return_counts=True)
    return logits.index_add(0, ids, -(counts * how.frequency_penalty + how.presence_penalty).to(logits.dtype))
