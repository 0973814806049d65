"""A reward model as one more adapter on the policy's own base, and which of a model's adapters is active."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.errors import PipelineError
from pipeline.evaluate.forward import padded_rows, precision_of
from pipeline.model.adapter_tensors import ADAPTER_FILE, load_adapter

POLICY, REWARD = "default", "reward"
HEAD_KEY = "base_model.model.score.weight"  # where a reward stage's adapter keeps its head


def add_reward(model: PeftModel, folder: Path) -> PeftModel:
    """Beside the policy `default` the adapter `reward` from its folder, frozen; its head, in fp32, as `model.reward_head`.

    Raises PipelineError for a folder that is no reward model on this base.
    """
    model.reward_head = head_of(model, folder)
    add_adapter_of(model, folder, REWARD)
    for name, parameter in model.named_parameters():
        if f".{REWARD}" in name or name.startswith("reward_head."):
            parameter.requires_grad_(False)
    return model


def head_of(model: PeftModel, folder: Path) -> nn.Linear:
    """The score head of a reward stage's adapter."""
    embeddings = model.get_input_embeddings().weight
    weight = load_file(folder / ADAPTER_FILE).get(HEAD_KEY)
    if weight is None or weight.shape[-1] != embeddings.shape[1]:
        raise PipelineError(f"{folder}: has no score head for this base.", "Name a reward stage's adapter.")
    head = nn.Linear(embeddings.shape[1], 1, bias=False, dtype=torch.float32, device=embeddings.device)
    head.weight.data.copy_(weight)
    return head


def add_adapter_of(model: PeftModel, folder: Path, name: str) -> None:
    """The adapter of a reward stage without its head, under a name. What was trained before is so afterwards."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    config, policy = headless(PeftConfig.from_pretrained(str(folder))), model.peft_config[POLICY]
    if config.peft_type != policy.peft_type:
        raise PipelineError(
            f"{folder}: is a {config.peft_type.value} adapter, and the policy is of {policy.peft_type.value}; on one base "
            "all are of one kind.",
            "Train the reward model from the same parent as the policy, or by the same adapter.method.",
        )
    model.add_adapter(name, config)
    load_adapter(model, folder, name, head_apart=True)
    for parameter in trained:  # add_adapter freezes what is not active
        parameter.requires_grad_(True)
    activate(model, POLICY)


def headless(config: PeftConfig) -> PeftConfig:
    """The same adapter without a head of its own: heads stand beside the base here."""
    config = copy.deepcopy(config)
    config.modules_to_save, config.task_type, config.inference_mode = None, "CAUSAL_LM", False
    return config


def activate(model: PeftModel, role: str) -> None:
    """Let the layers use the adapter of this role. PEFT's own set_adapter would freeze the others as well."""
    for module in model.modules():
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
            module._active_adapter = [role]


@contextmanager
def acting_as(model: PeftModel, role: str) -> Iterator[None]:
    """The model acts in a role, and as the policy again afterwards."""
    activate(model, role)
    try:
        yield
    finally:
        activate(model, POLICY)


def hidden_states(model: PeftModel, ids: Tensor, mask: Tensor) -> Tensor:
    """(rows, tokens, width): the last hidden states. Positions count real tokens, whatever padding stands left."""
    body = model.get_base_model().base_model
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    return body(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).last_hidden_state


@torch.no_grad()
def reward_scores(model: PeftModel, rows: Sequence[list[int]], pad: int, batch_size: int = 64) -> Tensor:
    """(rows,) on the CPU: the reward model's score of each token sequence, read off its last token. Without dropout."""
    device, training = model.get_input_embeddings().weight.device, model.training
    scores = torch.zeros(len(rows))
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    model.eval()
    with precision_of(model), acting_as(model, REWARD):
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            ids, mask = (some.to(device) for some in padded_rows([rows[row] for row in batch], pad))
            hidden = hidden_states(model, ids, mask)[torch.arange(len(batch)), mask.sum(1) - 1]
            scores[batch] = model.reward_head(hidden.float()).squeeze(-1).float().cpu()
    model.train(training)
    return scores
