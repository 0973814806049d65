"""Keys and values of a batch whose rows come and go. Rows end together; the shorter ones are padded on the left."""

from collections.abc import Sequence

import torch
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

_BLOCK = 256  # tokens by which a buffer grows
_KEPT_WHOLE = {"full_attention", "sliding_attention", "chunked_attention"}  # what they see, the mask says


class _Layer(DynamicLayer):
    """Of one layer, (rows, heads, tokens, size), in buffers with room for more: transformers' own copies all at every token.

    Layers that see only a window keep everything, too: rows can then be moved.
    """

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.buffers = [new[..., :0, :] for new in (key_states, value_states)]
        at, end = self.get_seq_length(), self.get_seq_length() + key_states.shape[-2]
        if end > self.buffers[0].shape[-2]:
            self.buffers = [_with_room(buffer, at, end + _BLOCK) for buffer in self.buffers]
        for buffer, new in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[..., at:end, :] = new
        self.keys, self.values = (buffer[..., :end, :] for buffer in self.buffers)
        return self.keys, self.values


def _with_room(buffer: torch.Tensor, used: int, tokens: int) -> torch.Tensor:
    rows, heads, _, size = buffer.shape
    larger = buffer.new_zeros(rows, heads, tokens, size)
    larger[..., :used, :] = buffer[..., :used, :]
    return larger


def movable(model: PreTrainedModel) -> bool:
    """Whether the model's state is keys and values alone, a pair for every token."""
    config = model.config.get_text_config()
    return not model._is_stateful and set(getattr(config, "layer_types", None) or ()) <= _KEPT_WHOLE


def empty(model: PreTrainedModel) -> Cache:
    return Cache(layer_class_to_replicate=_Layer) if movable(model) else DynamicCache(config=model.config)


def gathered(rows: Sequence[tuple[Cache, int, int]]) -> Cache:
    """One cache of rows of several: (cache, number of the row, how many tokens it has)."""
    longest = max(tokens for *_, tokens in rows)
    made = Cache(layer_class_to_replicate=_Layer)
    for number in range(len(rows[0][0].layers)):
        layer = _Layer()
        both = [[getattr(cache.layers[number], kind) for cache, *_ in rows] for kind in ("keys", "values")]
        layer.lazy_initialization(both[0][0], both[1][0])
        layer.buffers = [_aligned(old, rows, longest) for old in both]
        layer.keys, layer.values = (buffer[..., :longest, :] for buffer in layer.buffers)
        made.layers.append(layer)
    return made


def _aligned(old: list[torch.Tensor], rows: Sequence[tuple[Cache, int, int]], longest: int) -> torch.Tensor:
    _, heads, _, size = old[0].shape
    buffer = old[0].new_zeros(len(rows), heads, longest + _BLOCK, size)
    for at, (tensor, (_, row, tokens)) in enumerate(zip(old, rows, strict=True)):
        buffer[at, :, longest - tokens : longest] = tensor[row, :, tensor.shape[-2] - tokens :]
    return buffer
