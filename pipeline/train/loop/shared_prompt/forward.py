"""A model that is given pairs as one sequence each, and answers as if it had been given two.

TRL's reward trainer asks a score model for a score of each row. Its body runs the sequences, and what comes out is laid out as
rows again: the head, and what picks the last token of a row, are transformers' own.

TRL's loss of DPO asks the model for logits of (2 * pairs, tokens) and reads, of all of them, those that tell of an answer's token.
So it is shown the answers alone, each after the last token of its prompt: the model runs the whole sequences, and its head
runs on those places only.
"""

from dataclasses import dataclass, field

import torch
from peft import PeftModel

from pipeline.train.loop.shared_prompt.layout import CHOSEN, REJECTED, SHARED, allowed, places_of_rows


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


@dataclass
class ScoredSequence:
    """What stands around the body of a score model: the sequences go in, and rows come out.

    Without such sequences among its arguments a call is as it was.
    """

    implementation: str  # of the attention
    dtype: torch.dtype  # of a mask that is added
    _shared: dict | None = field(default=None, init=False)
    _length: int = field(default=0, init=False)  # tokens of the rows

    @classmethod
    def put_on(cls, model) -> "ScoredSequence":
        """On the model that a trainer calls, with an adapter around it or none."""
        made = cls(model.config.get_text_config()._attn_implementation, model.get_input_embeddings().weight.dtype)
        model.register_forward_pre_hook(made._enter, with_kwargs=True)
        model.register_forward_hook(made._leave, always_call=True)
        body_of(model).register_forward_pre_hook(made._into_the_body, with_kwargs=True)
        body_of(model).register_forward_hook(made._out_of_the_body)
        return made

    def _enter(self, _module, given: tuple, named: dict):
        if SHARED not in named:
            return None
        self._shared, self._length = named[SHARED], named["input_ids"].shape[1]
        return given, {name: value for name, value in named.items() if name != SHARED}

    def _into_the_body(self, _module, _given: tuple, named: dict):
        if self._shared is None:
            return None
        own = {name: self._shared[name] for name in ("input_ids", "position_ids")}
        own["attention_mask"] = mask_for(self.implementation, self._shared["sides"], self.dtype)
        return (), named | own

    def _out_of_the_body(self, _module, _given: tuple, found):
        """(pairs, tokens, size) becomes (2 * pairs, tokens of a row, size), the chosen before the rejected."""
        if self._shared is None:
            return None
        places = places_of_rows(self._shared["sides"], self._length)
        pairs = torch.arange(len(places) // 2, device=places.device).repeat(2)[:, None]
        found["last_hidden_state"] = found.last_hidden_state[pairs, places]
        return found

    def _leave(self, *_) -> None:
        self._shared = None


def body_of(model):
    """What of a model stands before its head."""
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    return getattr(inner, inner.base_model_prefix)


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
