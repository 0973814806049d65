"""The last layers of a model are trained alone, and all else of it is frozen."""

from torch import nn
from transformers import PreTrainedModel

from pipeline.model.adapters.absent import refuse_absent_layers


def train_last(model: PreTrainedModel, number: int) -> PreTrainedModel:
    """Freeze all but the last `number` layers, and a score head, which has learned nothing yet.

    Raises PipelineError where there are fewer.
    """
    stack = layers_of(model)
    refuse_absent_layers("adapter", {"layers": number}, len(stack))
    model.requires_grad_(False)
    for layer in stack[-number:]:
        layer.requires_grad_(True)
    if head := getattr(model, "score", None):
        head.requires_grad_(True)
    return model


def layers_of(model: nn.Module) -> nn.ModuleList:
    """Its layers, from the first to the last; none where they are not found."""
    number = model.config.get_text_config().num_hidden_layers
    stacks = (one for one in model.modules() if isinstance(one, nn.ModuleList) and len(one) == number)
    return next(stacks, nn.ModuleList())
