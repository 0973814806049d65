"""Tokens that are trained beside an adapter, without a copy of the embeddings or the head for each time they are used.

PEFT's layer writes the trained rows into a copy of the whole matrix, in every forward pass: of a model with a large vocabulary that is
a gigabyte for each token that is written, and in training a gradient as large. Here the matrix is used as it is, and what the trained
rows make otherwise is put in its place. Values and gradients are those of PEFT's layer, to rounding.
"""

from collections.abc import Sequence

import torch
from peft.tuners.trainable_tokens import TrainableTokensLayer
from torch import Tensor, nn


def without_copies(model: nn.Module) -> None:
    """Let its layers of trained tokens leave the matrices as they are, those of adapters that come later as well."""
    for module in model.modules():
        if type(module) is TrainableTokensLayer:
            module.__class__ = InPlace


class InPlace(TrainableTokensLayer):
    """PEFT's layer, which is saved, merged and switched as before. Its `weight`, where somebody asks for it, is still a copy."""

    def forward_adapters(self, x: Tensor, active_adapters: Sequence[str], *args, **kwargs) -> Tensor:
        base = self.get_base_layer()
        if (
            self.disable_adapters
            or self.merged
            or not active_adapters
            or not isinstance(base, nn.Embedding | nn.Linear)
        ):
            return super().forward_adapters(x, active_adapters, *args, **kwargs)
        self._check_overlapping_tokens(active_adapters)
        made = base(x)
        for name in active_adapters:
            ids = torch.tensor(self.token_indices[name], device=x.device)
            rows, before = self.trainable_tokens_delta[name].to(made.dtype), self.trainable_tokens_original[name]
            if isinstance(base, nn.Embedding):
                made = self._embedded(x, made, ids, rows)
            else:
                made = _Logits.apply(made, x.to(made.dtype), rows, before.to(made.dtype), ids)
        return made

    def _embedded(self, x: Tensor, made: Tensor, ids: Tensor, rows: Tensor) -> Tensor:
        """`made` (..., width) of the tokens `x` (...), with those of `ids` (n,) as `rows` (n, width) have them."""
        same = x.unsqueeze(-1) == ids
        scale = self._get_embed_scale()
        own = rows[same.int().argmax(-1)]
        return torch.where(same.any(-1, keepdim=True), own if scale is None else own * scale.to(own.dtype), made)


class _Logits(torch.autograd.Function):
    """Logits (..., words) of `hidden` (..., width), in which those of the words `ids` (n,) are made of `rows` (n, width).

    `logits` are those of the matrix, which has the rows `before` there, and get the others in place. That matrix's own backward pass
    takes the whole gradient, as if its rows were in use: what is wrong in that is made good here.
    """

    @staticmethod
    def forward(ctx, logits: Tensor, hidden: Tensor, rows: Tensor, before: Tensor, ids: Tensor) -> Tensor:
        ctx.save_for_backward(hidden, rows, before, ids)
        ctx.mark_dirty(logits)
        return logits.index_copy_(-1, ids, hidden @ rows.T)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        hidden, rows, before, ids = ctx.saved_tensors
        own = gradient.index_select(-1, ids)
        of_rows = own.flatten(0, -2).T @ hidden.flatten(0, -2)
        return gradient, own @ (rows - before), of_rows, None, None
