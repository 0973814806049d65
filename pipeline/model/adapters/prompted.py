"""A base that reads virtual tokens before its text: prefix, prompt and P-tuning.

PEFT puts them in where its own wrapper is called. Who calls the base or its body (generation, TRL's chunked loss, PPO's
roles) goes round that, logits come out longer than the text, and positions count left padding. Here the body itself
takes them in, whoever calls it, and gives back what belongs to the text alone. Virtual tokens stand at positions 0 to
n - 1, text from n on, wherever its padding stands: as plain PEFT has it for rows without padding on the left.
"""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from peft import PeftConfig, PeftModelForCausalLM
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.modeling_layers import GradientCheckpointingLayer

from pipeline.errors import PipelineError

ENCODER = "prompt_encoder."  # in an adapter's file: what the virtual tokens are computed from
COMPUTED = "prompt_embeddings"  # PEFT's name for what they come to
_FILE = "adapter_model.safetensors"


class Prefix(DynamicCache):
    """Keys and values before a text, which the text's own are not kept behind: a layer may be run again in the backward
    pass."""

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_, **__) -> tuple[Tensor, Tensor]:
        layer = self.layers[layer_idx]
        return torch.cat([layer.keys, key_states], -2), torch.cat([layer.values, value_states], -2)


class Prompted(PeftModelForCausalLM):
    """PEFT's model of a method with virtual tokens; adapters beside each other are each a few of these."""

    def __init__(self, model: PreTrainedModel, config: PeftConfig, adapter_name: str = "default", **options):
        super().__init__(model, config, adapter_name, **options)
        self._off, self._text, self._prefix = 0, None, None
        body = self.get_base_model().base_model
        self._takes = list(inspect.signature(body.forward).parameters)
        body.register_forward_pre_hook(self._put_in, with_kwargs=True)
        body.register_forward_hook(self._take_off)

    @property
    def virtual_tokens(self) -> int:
        """How many of the model's positions are taken."""
        return self.active_peft_config.num_virtual_tokens

    def forward(self, *args, **kwargs):
        return self.base_model(*args, **kwargs)

    def generate(self, *args, **kwargs):
        return self.base_model.generate(*args, **kwargs)

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        self._off += 1
        try:
            yield
        finally:
            self._off -= 1

    def _setup_prompt_encoder(self, adapter_name: str) -> None:
        """PEFT refuses a prefix where activations are recomputed; see `_Recomputed`. A text's tokens are told by `begin_with`,
        and not by a tokenizer that PEFT would look for."""
        config = self.peft_config[adapter_name]
        kind = getattr(config, "prompt_tuning_init", None)
        if kind == "TEXT":
            config.prompt_tuning_init = "RANDOM"
        modules = [one for one in self.base_model.modules() if getattr(one, "gradient_checkpointing", False)]
        for module in modules:
            module.gradient_checkpointing = False
        super()._setup_prompt_encoder(adapter_name)
        for module in modules:
            module.gradient_checkpointing = True
        if kind == "TEXT":
            config.prompt_tuning_init = kind

    def begin_with(self, ids: list[int]) -> None:
        """Let the virtual tokens be those of a text, cut or repeated to their number."""
        place = self.prompt_encoder["default"].embedding.weight
        words = self.get_input_embeddings().weight
        number = len(place)
        with torch.no_grad():
            place.copy_(words[torch.tensor((ids * number)[:number], device=words.device)])

    def _put_in(self, body: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        self._text, self._prefix = None, None
        if self._off:
            return None
        given = dict(zip(self._takes, args, strict=False)) | kwargs
        cache, mask = given.get("past_key_values"), given.get("attention_mask")
        begun = cache is not None and cache.get_seq_length() > 0  # the virtual tokens are in it
        text = given["inputs_embeds"] if given.get("input_ids") is None else given["input_ids"]
        rows, length, number = *text.shape[:2], self.virtual_tokens
        as_keys = self.active_peft_config.peft_type == "PREFIX_TUNING"
        positions, order = given.get("position_ids"), None
        if mask is not None:
            if mask.dim() != 2:
                raise ValueError("a model with virtual tokens takes a mask of (rows, tokens)")
            if positions is None:
                positions = (mask.long().cumsum(1) - 1).clamp(min=0)[:, -length:]
            order = None if as_keys else behind_padding(mask, number)
            given["attention_mask"] = _ordered(torch.cat([mask.new_ones(rows, number), mask], 1), order)
        if positions is not None:
            positions = positions + number
        if not begun and as_keys:
            self._put_into_cache(body, given, rows)
        elif not begun:
            if given.get("inputs_embeds") is None:
                given["inputs_embeds"] = body.get_input_embeddings()(given.pop("input_ids"))
            front = self.get_prompt(rows).to(given["inputs_embeds"].dtype)
            given["inputs_embeds"] = _ordered(torch.cat([front, given["inputs_embeds"]], 1), order)
            self._text = slice(number, None) if order is None else order.argsort(1)[:, number:]
            if positions is not None:
                own = torch.arange(number, device=positions.device).expand(*positions.shape[:-1], number)
                positions = _ordered(torch.cat([own, positions], -1), order)
        if positions is not None and "position_ids" in self._takes:
            given["position_ids"] = positions
        return (), given

    def _put_into_cache(self, body: nn.Module, given: dict, rows: int) -> None:
        front, cache = self.get_prompt(rows), given.get("past_key_values")
        if cache is not None:
            for number, layer in enumerate(front.layers):
                cache.update(layer.keys, layer.values, number)
            return
        if self.training or not given.get("use_cache"):
            front.__class__ = Prefix
        given["past_key_values"] = front
        if self.training:
            self._prefix = front
            for module in body.modules():
                if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing:
                    _Recomputed.stand_before(module, self)

    def _take_off(self, body: nn.Module, args: tuple, output) -> None:
        if (text := self._text) is not None:
            output.last_hidden_state = _picked(output.last_hidden_state, text)
            if output.get("hidden_states") is not None:
                output.hidden_states = tuple(_picked(one, text) for one in output.hidden_states)
        self._text, self._prefix = None, None

    def save_pretrained(self, save_directory, *args, **kwargs) -> None:
        """PEFT's folder, from which plain PEFT answers alike; with the encoder in it, from which training goes on."""
        super().save_pretrained(save_directory, *args, **kwargs)
        if encoder := self.encoder("default"):
            file = Path(save_directory) / _FILE
            tensors = load_file(file) | {key: tensor.detach().cpu() for key, tensor in encoder.items()}
            save_file(tensors, file, metadata={"format": "pt"})

    def kept(self) -> dict[str, Tensor]:
        """What a folder holds of the adapter, by its names there."""
        encoder = self.prompt_encoder["default"]
        tokens = torch.arange(self.virtual_tokens, device=encoder.embedding.weight.device)
        return {COMPUTED: encoder(tokens[None])[0].detach()} | self.encoder("default")

    def put(self, tensors: Mapping[str, Tensor], name: str) -> tuple[list[str], list[str]]:
        """Take an adapter's saved tensors over; (those that are missing, those that have no place).

        Raises RuntimeError for one of another shape.
        """
        encoder = self.encoder(name)
        wanted = encoder or {COMPUTED: self.prompt_encoder[name].embedding.weight}
        if encoder and COMPUTED in tensors and not wanted.keys() & tensors.keys():
            raise PipelineError(
                "The adapter holds its virtual tokens, and not what its virtual tokens are computed from: it was saved for "
                "inference alone.",
                "Train it again here, or use plain PEFT to ask it.",
            )
        for key in wanted.keys() & tensors.keys():
            if wanted[key].shape != tensors[key].shape:
                raise RuntimeError(f"{key} is {list(tensors[key].shape)}, and {list(wanted[key].shape)} is its place")
        with torch.no_grad():
            for key in wanted.keys() & tensors.keys():
                wanted[key].copy_(tensors[key])
        unplaced = [key for key in tensors if key not in wanted and key != COMPUTED]
        if not encoder:  # where it is only asked, what they came from is left aside
            unplaced = [key for key in unplaced if not key.startswith(ENCODER)]
        return [key for key in wanted if key not in tensors], unplaced

    def encoder(self, name: str) -> dict[str, Tensor]:
        """What the virtual tokens are computed from, by its names in a file; empty where it is they themselves."""
        encoder = dict(self.prompt_encoder[name].named_parameters())
        return {ENCODER + key: tensor for key, tensor in encoder.items()} if len(encoder) > 1 else {}


class _Recomputed:
    """Stands before the function that runs a layer again in the backward pass: transformers would take the cache from
    that layer, and the prefix with it."""

    def __init__(self, model: Prompted, checkpoint):
        self._model, self._checkpoint = model, checkpoint

    @classmethod
    def stand_before(cls, layer: GradientCheckpointingLayer, model: Prompted) -> None:
        if not isinstance(layer._gradient_checkpointing_func, cls):
            layer._gradient_checkpointing_func = cls(model, layer._gradient_checkpointing_func)

    def __call__(self, run, *args, **kwargs):
        if (prefix := self._model._prefix) is not None:
            if "past_key_values" not in run.keywords:
                raise ValueError("this model's layers take no prefix with gradient_checkpointing")
            run = partial(run, past_key_values=prefix)
        return self._checkpoint(run, *args, **kwargs)


def behind_padding(mask: Tensor, number: int) -> Tensor | None:
    """(rows, number + tokens): where each place is taken from, so that what stood in front of a row stands behind the
    padding on its left: a sliding window counts what lies between. None where there is none.
    """
    first = mask.long().argmax(1)[:, None]
    if not first.any():
        return None
    places = torch.arange(number + mask.shape[1], device=mask.device)[None]
    return torch.where(places < first, places + number, torch.where(places < first + number, places - first, places))


def _ordered(some: Tensor, order: Tensor | None) -> Tensor:
    """(rows, number + tokens, ...) in the order of `behind_padding`."""
    return some if order is None else _picked(some, order)


def _picked(some: Tensor, places: Tensor | slice) -> Tensor:
    """Of (rows, tokens, ...) these tokens of each row."""
    if isinstance(places, slice):
        return some[:, places]
    rows = torch.arange(len(places), device=places.device)[:, None]
    return some.expand(len(places), *some.shape[1:])[rows, places]


def keeps_all_keys(base: PreTrainedModel) -> bool:
    """Whether every layer of the base keeps the keys and values of all tokens, so that a prefix is always before them."""
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=base.config).layers)
