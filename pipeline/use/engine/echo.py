"""What the model makes of a prompt itself: the log-probability of each of its tokens."""

from collections.abc import Iterator, Sequence

import torch
from transformers import PreTrainedTokenizerFast

from pipeline.use.engine.request import Token
from pipeline.use.engine.text import Detokenizer, text_of

_AT_ONCE = 128  # positions whose logits are in fp32 at the same time


def scored(
    tokenizer: PreTrainedTokenizerFast, ids: Sequence[int], logits: torch.Tensor, likeliest: int
) -> tuple[Token, ...]:
    """`logits` (tokens, vocabulary) are what follows each token; nothing is before the first, which has no log-probability."""
    growing = Detokenizer(tokenizer)
    found = iter(_scores(logits[:-1], torch.tensor(ids[1:], device=logits.device), likeliest))
    tokens = []
    for at, one in enumerate(ids):
        logprob, likely = next(found) if at else (None, ())
        likely = tuple((other, text_of(tokenizer, other), value) for other, value in likely)
        tokens.append(Token(one, text_of(tokenizer, one), logprob, likely, letters=len(growing.add(one))))
    return tuple(tokens)


def _scores(
    logits: torch.Tensor, following: torch.Tensor, likeliest: int
) -> Iterator[tuple[float, list[tuple[int, float]]]]:
    for some, ids in zip(logits.split(_AT_ONCE), following.split(_AT_ONCE), strict=True):
        logprobs = some.float().log_softmax(-1)
        values, others = logprobs.topk(likeliest)
        own = logprobs.gather(1, ids[:, None])[:, 0]
        yield from zip(own.tolist(), map(list, map(zip, others.tolist(), values.tolist())), strict=True)
