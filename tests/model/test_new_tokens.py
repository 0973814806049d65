"""Tokens trained beside an adapter, without copies of the matrices: values and gradients are those of PEFT's own layer."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.trainable_tokens import TrainableTokensLayer
from small_models import SHAPE
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline.model.new_tokens import without_copies

NEW = [3, 47, 48]


def both(model_type: str, tied: bool):
    """The same adapted model with PEFT's layers and with those of our own, whose trained tokens are other than the base's."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        model_type, **SHAPE | {"vocab_size": 50, "tie_word_embeddings": tied, "pad_token_id": 0}
    )
    base = AutoModelForCausalLM.from_config(config, dtype=torch.float64)
    where = {"embed_tokens": NEW} | ({} if tied else {"lm_head": NEW})
    lora = LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=where, task_type="CAUSAL_LM")
    peft = get_peft_model(base, lora)
    peft.add_adapter("ref", lora)
    for name, weight in peft.named_parameters():
        if "trainable_tokens" in name or "lora_" in name:
            weight.data = torch.randn_like(weight, dtype=torch.float64)
    own = copy.deepcopy(peft)
    without_copies(own)
    return peft, own


def outcome(model, ids: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    logits = model(input_ids=ids).logits
    logits.log_softmax(-1)[..., ids[0, 0]].sum().backward()
    return [logits.detach(), *(weight.grad for weight in model.parameters() if weight.grad is not None)]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return len(pairs) > 1 and all(torch.allclose(a, b, atol=1e-12, rtol=1e-9) for a, b in pairs)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("model_type", ["llama", "gemma"])  # Gemma scales its embeddings
def test_values_and_gradients_are_those_of_pefts_layer(model_type, tied):
    peft, own = both(model_type, tied)
    ids = torch.tensor([[47, 5, 3, 48], [1, 48, 48, 2]])
    assert sum(isinstance(one, TrainableTokensLayer) for one in own.modules()) == 2
    assert same(outcome(peft, ids), outcome(own, ids))
    own.gradient_checkpointing_enable()
    own.enable_input_require_grads()
    assert same(outcome(peft, ids), outcome(own, ids))
    with torch.no_grad():
        first = own(input_ids=ids).logits
        for model in (peft, own):
            model.set_adapter("ref")
        assert torch.allclose(peft(input_ids=ids).logits, own(input_ids=ids).logits)
        assert not torch.allclose(first, own(input_ids=ids).logits)
        with peft.disable_adapter(), own.disable_adapter():
            assert torch.equal(peft(input_ids=ids).logits, own(input_ids=ids).logits)
        assert torch.allclose(
            peft.merge_and_unload()(input_ids=ids).logits, own.merge_and_unload()(input_ids=ids).logits
        )


def test_the_matrices_are_not_copied(monkeypatch):
    """In no forward or backward pass, whatever it is for."""
    _, own = both("llama", False)

    def refuse(*_):
        raise AssertionError("a copy was made")

    monkeypatch.setattr(TrainableTokensLayer, "get_merged_weights", refuse)
    outcome(own, torch.tensor([[47, 5]]))
    assert own.generate(input_ids=torch.tensor([[47, 5]]), max_new_tokens=3, min_new_tokens=3).shape == (1, 5)
