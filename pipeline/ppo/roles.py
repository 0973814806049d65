"""Policy, reference, reward and value: four adapters on one frozen base."""

import torch
from peft import PeftModel
from torch import Tensor, nn

from pipeline.ppo.arithmetic import log_probabilities
from pipeline.reward.adapter import POLICY, REWARD, activate, headless, hidden_states

REFERENCE, VALUE = "ref", "value"


def add_roles(model: PeftModel) -> PeftModel:
    """Beside the policy `default`, and the `reward` where there is one: `ref`, a frozen copy of the policy, and `value`, a
    copy of the reward (of the policy where there is no reward model) that is trained, with `model.value_head`, in fp32.
    """
    for role, of in ((REFERENCE, POLICY), (VALUE, REWARD if REWARD in model.peft_config else POLICY)):
        tensors = _tensors(model, of)
        model.add_adapter(role, headless(model.peft_config[of]))
        _copy(model, tensors, role)
    embeddings = model.get_input_embeddings().weight
    model.value_head = nn.Linear(embeddings.shape[1], 1, bias=False, dtype=torch.float32, device=embeddings.device)
    with torch.no_grad():
        if REWARD in model.peft_config:
            model.value_head.weight.copy_(model.reward_head.weight)
        else:
            model.value_head.weight.zero_()
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


def save_value(model: PeftModel) -> dict[str, Tensor]:
    """The value model's tensors: adapter and head."""
    return {name: p.data.contiguous() for name, p in model.named_parameters() if is_value(name)}


def load_value(model: PeftModel, tensors: dict[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        if is_value(name):
            parameter.data.copy_(tensors[name])


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
