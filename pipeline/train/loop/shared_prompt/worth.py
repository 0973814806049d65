"""What it saves to run each prompt once, reckoned from the rows' lengths and the model's shape."""

from dataclasses import dataclass

import numpy
from datasets import Dataset
from peft import PeftModel

from pipeline.data.prepare.table import numbers


@dataclass(frozen=True)
class Worth:
    """Of all rows of a stage."""

    saved: float  # the share of all tokens that are a prompt's second run
    work: float  # of the arithmetic of two rows a pair, the share that one sequence a pair needs
    longest: int  # tokens of the longest prompt with one of its answers


def worth(model, rows: Dataset) -> Worth:
    """By the multiplications of a forward pass: a token meets every weight once (Kaplan et al. 2020, section 2.1), and in
    the attention every token that is there at all, where a mask says which count. Two rows are padded to the longer one, and
    need no mask where they are of one length: what comes later is then skipped. The head runs on every token of two rows, and
    in one sequence on the answers'. A score model has none.
    """
    prompts, chosen, rejected = (numbers(rows, name) for name in ("prompt_ids", "chosen_ids", "rejected_ids"))
    both, first, second = prompts + chosen + rejected, prompts + chosen, prompts + rejected
    if not both.sum():
        return Worth(0.0, 1.0, 0)
    weights, head, seen = _of_a_token(model)
    once = weights * both.sum() + head * (chosen + rejected).sum() + seen * (both**2).sum()
    longer, skipped = numpy.maximum(first, second), numpy.where(first == second, 0.5, 1.0)
    twice = 2 * ((weights + head) * longer.sum() + seen * (skipped * longer**2).sum())
    return Worth(float(prompts.sum() / (first + second).sum()), float(once / twice), int(longer.max()))


def _of_a_token(model) -> tuple[int, int, int]:
    """Multiplications: by the layers' weights, by the head's, and in the attention for each token that it sees."""
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    config = inner.config.get_text_config()
    vocabulary, size = inner.get_input_embeddings().weight.shape
    # The head of a score model is next to nothing.
    head = size * vocabulary if inner.get_output_embeddings() is not None else 0
    weights = inner.num_parameters(exclude_embeddings=True) - (0 if config.tie_word_embeddings else head)
    return weights, head, 2 * size * getattr(config, "num_hidden_layers", 1)
