"""Policy, reference, reward and value: four adapters on one frozen base, and which of them is active."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.errors import PipelineError
from pipeline.evaluate.forward import padded_rows
from pipeline.model.loader import ADAPTER_FILE, load_adapter
from pipeline.ppo.arithmetic import log_probabilities

POLICY, REFERENCE, REWARD, VALUE = "default", "ref", "reward", "value"
HEAD_KEY = "base_model.model.score.weight"  # where a reward stage's adapter keeps its head


def add_roles(model: PeftModel, reward_folder: Path | None) -> PeftModel:
    """Beside the policy `default`: `ref`, a frozen copy of it; `reward` from its folder, frozen, with its head; and
    `value`, a copy of the reward (of the policy where there is no reward model) that is trained.

    The heads become `model.reward_head` and `model.value_head`, in fp32. Raises PipelineError for a folder
    that is no reward model on this base.
    """
    config = _lora(model.peft_config[POLICY])
    mine = _tensors(model, POLICY)
    model.add_adapter(REFERENCE, copy.deepcopy(config))
    _copy(model, mine, REFERENCE)
    embeddings = model.get_input_embeddings().weight
    width = embeddings.shape[1]
    fp32 = {"dtype": torch.float32, "device": embeddings.device}
    model.value_head = nn.Linear(width, 1, bias=False, **fp32)
    nn.init.zeros_(model.value_head.weight)
    if reward_folder is None:
        model.add_adapter(VALUE, copy.deepcopy(config))
        _copy(model, mine, VALUE)
    else:
        config = _lora(PeftConfig.from_pretrained(str(reward_folder)))
        head = load_file(reward_folder / ADAPTER_FILE).get(HEAD_KEY)
        if head is None or head.shape[-1] != width:
            raise PipelineError(f"{reward_folder}: has no score head for this base.", "Name a reward stage's adapter.")
        model.reward_head = nn.Linear(width, 1, bias=False, **fp32)
        for name, of in ((REWARD, model.reward_head), (VALUE, model.value_head)):
            model.add_adapter(name, copy.deepcopy(config))
            load_adapter(model, reward_folder, name, head_apart=True)
            of.weight.data.copy_(head)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # old and new log-probabilities must be of one and the same function
    if hasattr(model.config.get_text_config(), "attention_dropout"):
        model.config.get_text_config().attention_dropout = 0.0
    for name, parameter in model.named_parameters():
        # add_adapter freezes what is not active, and thaws what is.
        parameter.requires_grad_(_trained(name))
        if _trained(name):
            parameter.data = parameter.data.float()
    activate(model, POLICY)
    return model


def is_value(name: str) -> bool:
    """Whether a parameter's name is the value model's."""
    return f".{VALUE}" in name or name.startswith("value_head.")


def _trained(name: str) -> bool:
    return f".{POLICY}." in name or name.endswith(f".{POLICY}") or is_value(name)


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


def response_log_probabilities(
    model: PeftModel, ids: Tensor, mask: Tensor, response: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """(log-probabilities, entropies), both (rows, tokens of the response) in fp32, by the active adapter.

    `ids` and `mask` are (rows, prompt + response); `response` is (rows, response), 1 where a token is real.
    """
    length = response.shape[1]
    hidden = hidden_states(model, ids, mask)[:, -length - 1 : -1]  # what stands before a token predicts it
    real = response.bool()
    base = model.get_base_model()
    targets, vocabulary = ids[:, -length:][real], base.config.get_text_config().vocab_size
    found, entropy = log_probabilities(hidden[real], base.get_output_embeddings(), targets, vocabulary, temperature)
    blank = torch.zeros(response.shape, dtype=torch.float32, device=ids.device)
    return blank.masked_scatter(real, found), blank.masked_scatter(real, entropy)


def response_values(model: PeftModel, ids: Tensor, mask: Tensor, response: Tensor) -> Tensor:
    """(rows, response): the value before each token of the response. The value adapter has to be active."""
    length = response.shape[1]
    hidden = hidden_states(model, ids, mask)[:, -length - 1 : -1]
    return model.value_head(hidden.float()).squeeze(-1).masked_fill(response == 0, 0)


@torch.no_grad()
def reward_scores(model: PeftModel, rows: Sequence[list[int]], pad: int, batch_size: int = 64) -> Tensor:
    """(rows,) on the CPU: the reward model's score of each token sequence, read off its last token."""
    device = model.get_input_embeddings().weight.device
    scores = torch.zeros(len(rows))
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    with acting_as(model, REWARD):
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            ids, mask = (some.to(device) for some in padded_rows([rows[row] for row in batch], pad))
            hidden = hidden_states(model, ids, mask)[torch.arange(len(batch)), mask.sum(1) - 1]
            scores[batch] = model.reward_head(hidden.float()).squeeze(-1).float().cpu()
    return scores


def save_value(model: PeftModel) -> dict[str, Tensor]:
    """The value model's tensors: adapter and head."""
    return {name: p.data.contiguous() for name, p in model.named_parameters() if is_value(name)}


def load_value(model: PeftModel, tensors: dict[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        if is_value(name):
            parameter.data.copy_(tensors[name])


def _lora(config: PeftConfig) -> LoraConfig:
    """The same adapter without a head of its own: heads stand beside the base here."""
    if not isinstance(config, LoraConfig):
        raise PipelineError(f"PPO needs LoRA adapters, not {config.peft_type}.")
    config = copy.deepcopy(config)
    config.modules_to_save, config.task_type, config.inference_mode = None, "CAUSAL_LM", False
    return config


def _tensors(model: PeftModel, role: str) -> dict[str, Tensor]:
    return {
        name.replace(f".{role}", ".{role}"): parameter.data.clone()
        for name, parameter in model.named_parameters()
        if f".{role}" in name
    }


def _copy(model: PeftModel, tensors: dict[str, Tensor], role: str) -> None:
    parameters = dict(model.named_parameters())
    for name, tensor in tensors.items():
        parameters[name.replace(".{role}", f".{role}")].data = tensor.clone()
