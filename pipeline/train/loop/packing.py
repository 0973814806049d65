"""Rows that stand in one sequence, each whole and none seeing another."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import trl
from datasets import Dataset

from pipeline.errors import PipelineError

# How TRL's warnings begin.
SUSPICIONS = ("Padding-free training is enabled, but the attention", "You are using packing, but the attention")


def packed(rows: Dataset, length: int | None, model) -> Dataset:
    """Rows in packs of at most `length` tokens, each whole; positions begin anew with each, and none sees another.

    Raises PipelineError where the model's attention would let them see each other.
    """
    if length is None:
        raise PipelineError("train.packing needs a length to fill.", "Set train.max_length.")
    refuse_mixed_attention(model, "packing")
    return trl.pack_dataset(rows, length, strategy="bfd")


def refuse_mixed_attention(model, key: str) -> None:
    """Raises PipelineError where rows that stand in one sequence would see each other."""
    if "unsloth" in sys.modules or not _keeps_documents_apart(model):
        raise PipelineError(
            f"train.{key}: with this backend and attention, rows in one sequence would see each other.",
            f"Set train.{key}: false, use_unsloth: false, or another model.attn_implementation.",
        )
    print(f"train.{key}: looked into: rows in one sequence do not see each other here", flush=True)


@contextmanager
def without_suspicion() -> Iterator[None]:
    """Hide what TRL says of every attention but FlashAttention, that rows in one sequence may see each other: here that
    has been looked into with the model itself, and is refused where it is so.
    """

    def other(record: logging.LogRecord) -> bool:
        return not any(suspicion in record.getMessage() for suspicion in SUSPICIONS)

    log = logging.getLogger("trl.trainer.sft_trainer")
    log.addFilter(other)
    try:
        yield
    finally:
        log.removeFilter(other)


@torch.no_grad()
def _keeps_documents_apart(model) -> bool:
    """Whether a document in a pack has the logits that it has alone: not every attention goes by the positions."""
    ids = torch.arange(3, 19, device=model.device)[None] % model.config.get_text_config().vocab_size
    positions = torch.arange(8, device=model.device).repeat(2)[None]
    training = model.training
    model.eval()
    together = model(input_ids=ids, position_ids=positions, use_cache=False).logits[0, 8:].float()
    alone = model(input_ids=ids[:, 8:], use_cache=False).logits[0].float()
    model.train(training)
    return bool((together - alone).abs().mean() < 0.05 * alone.std())
