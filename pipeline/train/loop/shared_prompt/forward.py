"""A model that is given pairs as one sequence each, and answers as if it had been given two.

TRL's loss asks the model for logits of (2 * pairs, tokens) and reads, of all of them, those that tell of an answer's token.
So it is shown the answers alone, each after the last token of its prompt: the model runs the whole sequences, and its head
runs on those places only.
"""

from dataclasses import dataclass, field

import torch

from pipeline.train.loop.shared_prompt.layout import CHOSEN, REJECTED, SHARED, allowed


class SharedPrompt:
    """Goes in front of TRL's DPO trainer: its losses see the answers, where a batch has pairs as one sequence each."""

    def _compute_loss(self, model, inputs, *given, **named):
        return super()._compute_loss(model, answers_alone(inputs), *given, **named)

    def _compute_ref_log_probs(self, model, inputs):
        return super()._compute_ref_log_probs(model, answers_alone(inputs))


def answers_alone(inputs: dict) -> dict:
    """A batch as the losses are to see it; one without such sequences as it is."""
    if SHARED not in inputs:
        return inputs
    shared = dict(inputs[SHARED])
    seen = {"input_ids": shared.pop("answer_ids"), "completion_mask": shared.pop("answer_mask")}
    return dict(inputs) | seen | {SHARED: shared}


@dataclass
class OneSequence:
    """What stands in a model's call while it is put there: other inputs go in, and the head gets the answers' places.

    Without such sequences among its arguments a call is as it was.
    """

    implementation: str  # of the attention
    dtype: torch.dtype  # of a mask that is added
    _places: torch.Tensor | None = field(default=None, init=False)

    @classmethod
    def put_on(cls, model) -> "OneSequence":
        """On the model that a trainer calls, with an adapter around it or none."""
        head = model.get_output_embeddings()
        dtype = model.get_input_embeddings().weight.dtype
        made = cls(model.config.get_text_config()._attn_implementation, dtype)
        model.register_forward_pre_hook(made._enter, with_kwargs=True)
        model.register_forward_hook(made._leave, always_call=True)
        head.register_forward_pre_hook(made._at_the_head)
        return made

    def _enter(self, _module, given: tuple, named: dict):
        if SHARED not in named:
            return None
        shared = named[SHARED]
        self._places = shared["places"]
        own = {
            "input_ids": shared["input_ids"],
            "position_ids": shared["position_ids"],
            "attention_mask": mask_for(self.implementation, shared["sides"], self.dtype),
        }
        return given, {name: value for name, value in named.items() if name != SHARED} | own

    def _at_the_head(self, _module, given: tuple):
        """(pairs, tokens, size) becomes (2 * pairs, longest answer + 1, size), the chosen before the rejected."""
        if self._places is None:
            return None
        hidden, *rest = given
        pairs = torch.arange(len(hidden), device=hidden.device).repeat(2)[:, None]
        return hidden[pairs, self._places], *rest

    def _leave(self, *_) -> None:
        self._places = None


def mask_for(implementation: str, sides: torch.Tensor, dtype: torch.dtype):
    """The mask of a batch as an attention takes it: true where a token sees another (sdpa), what is added to the scores
    (eager), or the blocks that have to be computed (flex_attention).
    """
    if implementation == "flex_attention":
        return _blocks(sides)
    seen = allowed(sides)
    if implementation == "eager":
        return torch.zeros(seen.shape, dtype=dtype, device=sides.device).masked_fill(~seen, torch.finfo(dtype).min)
    return seen


def _blocks(sides: torch.Tensor):
    from torch.nn.attention.flex_attention import create_block_mask

    def seen(pair, _head, query, key):
        return (query >= key) & ~((sides[pair, query] == REJECTED) & (sides[pair, key] == CHOSEN))

    pairs, tokens = sides.shape
    return create_block_mask(seen, pairs, None, tokens, tokens, device=sides.device)
