"""Greedy answers."""

from collections.abc import Sequence

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
