"""Greedy answers, and what a model is asked with."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from transformers import GenerationConfig

from pipeline.evaluate.forward import padded_rows


def greedy(model, tokenizer, prompts: Sequence[list[int]], settings) -> tuple[list[list[int]], list[list[int]]]:
    """The prompts' tokens and greedy responses, each through its EOS, made in batches of like length."""
    limit = getattr(model.config, "max_position_embeddings", None) or 1 << 30
    limit -= getattr(model, "virtual_tokens", 0)
    ids = [one[-max(limit - settings.max_new_tokens, 1) :] for one in prompts]
    order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
    responses: list[list[int]] = [[] for _ in ids]
    eos = tokenizer.eos_token_id
    device = next(model.parameters()).device
    for start in range(0, len(order), settings.batch_size):
        batch = order[start : start + settings.batch_size]
        inputs, mask = padded_rows([ids[number] for number in batch], tokenizer.pad_token_id, left=True)
        with as_told(model):
            output = model.generate(
                input_ids=inputs.to(device),
                attention_mask=mask.to(device),
                max_new_tokens=settings.max_new_tokens,
                do_sample=False,
                eos_token_id=eos,
                pad_token_id=tokenizer.pad_token_id,
            )
        for number, tokens in zip(batch, output[:, inputs.shape[1] :].tolist(), strict=True):
            responses[number] = tokens[: tokens.index(eos) + 1] if eos in tokens else tokens
    return ids, responses


@contextmanager
def as_told(model) -> Iterator[None]:
    """The model writes by what `generate` is told, and by nothing else.

    What a call leaves open transformers takes from the base's own generation config. A repetition penalty found there
    would be part of every held-out answer, and make responses that are sampled others than those whose log-probabilities
    are trained.
    """
    holders = [module for module in model.modules() if vars(module).get("generation_config") is not None]
    kept = [module.generation_config for module in holders]
    for module in holders:
        module.generation_config = GenerationConfig()
    try:
        yield
    finally:
        for module, config in zip(holders, kept, strict=True):
            module.generation_config = config
