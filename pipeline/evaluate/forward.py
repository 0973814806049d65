"""Forward passes over rows of like length: log-probabilities, scores, and the state they leave untouched."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy
import torch

from pipeline.data.tokens.encoded import IGNORED

LOGITS_BYTES = 256 << 20  # the largest tensor of logits that an evaluation holds at a time
ON_A_CPU = 2048  # tokens: of larger batches too little stays in its caches (benchmarks/README.md, "Forward passes")


def log_probabilities(
    model, rows: Sequence[tuple[list[int], list[int]]], pad: int, at_most: int | None = None
) -> tuple[list[float], list[int]]:
    """For each (input ids, labels): the sum of the labels' log-probabilities (nats) and their number.

    Labels stand at their own position, as in training; those that are IGNORED are left out. No more rows than `at_most` are
    in one forward pass.
    """
    sums, counts = [0.0] * len(rows), [0] * len(rows)
    device = next(model.parameters()).device
    for batch in batches([len(ids) for ids, _ in rows], tokens_at_once(model), at_most):
        inputs, mask = padded_rows([rows[number][0] for number in batch], pad)
        labels, _ = padded_rows([rows[number][1] for number in batch], IGNORED)
        logits = model(input_ids=inputs.to(device), attention_mask=mask.to(device), use_cache=False).logits[:, :-1]
        targets = labels[:, 1:].to(device)
        loss = _cross_entropy(logits, targets)
        for number, total, count in zip(
            batch, (-loss).sum(1).tolist(), (targets != IGNORED).sum(1).tolist(), strict=True
        ):
            sums[number], counts[number] = total, count
    return sums, counts


def _cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(rows, tokens) in nats, 0 where a target is IGNORED. A row alone may have more logits than are to be held in fp32: by pieces."""
    at_once = max(LOGITS_BYTES // (4 * logits.shape[-1] * logits.shape[0]), 1)
    pieces = zip(logits.split(at_once, dim=1), targets.split(at_once, dim=1), strict=True)
    losses = [
        torch.nn.functional.cross_entropy(
            some.float().flatten(0, 1), ids.flatten(), ignore_index=IGNORED, reduction="none"
        ).view(ids.shape)
        for some, ids in pieces
    ]
    return torch.cat(losses, dim=1)


def scores(model, rows: Sequence[list[int]], pad: int, at_most: int | None = None) -> list[float]:
    """The reward of each token sequence, no more than `at_most` of them in one forward pass."""
    found = [0.0] * len(rows)
    device = next(model.parameters()).device
    for batch in batches([len(ids) for ids in rows], _at_once(device, 1 << 14), at_most):
        inputs, mask = padded_rows([rows[number] for number in batch], pad)
        output = model(input_ids=inputs.to(device), attention_mask=mask.to(device)).logits
        for number, score in zip(batch, output.float().squeeze(-1).tolist(), strict=True):
            found[number] = score
    return found


def tokens_at_once(model) -> int:
    """How many tokens, with their padding, go through a model that gives logits for all of them."""
    most = LOGITS_BYTES // (4 * model.config.get_text_config().vocab_size)
    return _at_once(next(model.parameters()).device, most)


def _at_once(device: torch.device, most: int) -> int:
    return min(most, ON_A_CPU) if device.type == "cpu" else most


def batches(lengths: Sequence[int], tokens: int, rows: int | None = None) -> Iterator[list[int]]:
    """Row numbers in batches of like length: each of at most `tokens` tokens with its padding and of at most `rows` rows,
    and one row at least.
    """
    batch: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda number: lengths[number]):
        if batch and ((len(batch) + 1) * lengths[number] > tokens or len(batch) == rows):
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


@contextmanager
def untouched_random_state():
    """Gives every random state back as it was: an evaluation must not change what is trained after it."""
    states = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
    gpu = torch.cuda.get_rng_state() if torch.cuda.is_available() else None  # its own: others belong to other processes
    try:
        yield
    finally:
        random.setstate(states[0])
        numpy.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if gpu is not None:
            torch.cuda.set_rng_state(gpu)


def precision_of(model):
    """The mixed precision that half-precision bases are trained in: their adapters are fp32."""
    device, dtype = next(model.parameters()).device.type, model.config.dtype
    half = dtype in (torch.bfloat16, torch.float16)
    return torch.autocast(device, dtype=dtype if half else torch.bfloat16, enabled=half)
