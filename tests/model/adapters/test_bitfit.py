"""BitFit: the biases that a model has are trained, beside the base's own; a model without any is refused by the plan."""

import pytest
import torch
from conftest import refused
from peft import AutoPeftModelForCausalLM, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline.model.adapters import METHODS
from pipeline.model.adapters.scaled import _BIASES
from pipeline.model.saving import save_weights

METHOD = METHODS["bitfit"]
SHAPE = {"vocab_size": 32, "num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "pad_token_id": 0}
SHAPE |= {"intermediate_size": 32, "num_key_value_heads": 1, "head_dim": 8}
KINDS = ["gpt2", "gpt_neox", "qwen2", "opt", "phi"]
IDS = torch.arange(1, 13).reshape(2, 6)


def small(kind: str, **more) -> AutoModelForCausalLM:
    torch.manual_seed(0)
    taken = {
        "gpt2": {"num_key_value_heads", "head_dim"},
        "gpt_neox": {"head_dim"},
        "opt": {"head_dim"},
        "phi": {"head_dim"},
    }
    shape = {key: value for key, value in SHAPE.items() if key not in taken.get(kind, ())} | more
    if kind == "opt":
        shape |= {"ffn_dim": 32, "word_embed_proj_dim": 16}
    if kind == "phi":
        shape["num_key_value_heads"] = 2
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape, bos_token_id=1, eos_token_id=2)).eval()


def adapted(model):
    return get_peft_model(model, METHOD.settings({}, task_type="CAUSAL_LM")).eval()


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model(input_ids=IDS).logits


@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_every_bias_as_if_the_models_own_were_trained(kind):
    """A step of it is a step of the model with everything but its biases frozen."""
    own, model = small(kind), adapted(small(kind))
    assert torch.equal(logits(model), logits(own))
    for name, one in own.named_parameters():
        one.requires_grad_(name.rpartition(".")[2] == "bias")
    number = sum(one.numel() for one in own.parameters() if one.requires_grad)
    assert model.num_parameters(only_trainable=True) == number > 0
    for trained in (own, model):
        optimizer = torch.optim.SGD([one for one in trained.parameters() if one.requires_grad], lr=0.1)
        trained(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
    assert torch.allclose(logits(model), logits(own), atol=1e-5)
    assert not torch.allclose(logits(model), logits(small(kind)), atol=1e-3)
    merged = model.merge_and_unload()
    assert all(torch.allclose(one, own.state_dict()[name], atol=1e-6) for name, one in merged.state_dict().items())


def test_plain_peft_loads_it(tmp_path):
    small("qwen2").save_pretrained(tmp_path / "base")
    model = adapted(AutoModelForCausalLM.from_pretrained(tmp_path / "base"))
    for one in model.parameters():
        if one.requires_grad:
            torch.nn.init.normal_(one)
    save_weights(model, tmp_path / "adapter")
    assert torch.equal(logits(AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()), logits(model))


def test_a_model_without_biases_is_refused_by_the_plan(micro):
    """And it is known of each kind what gives it some."""
    said = refused(micro, "plan", "-r", "micro.yaml", "--set", "adapter={method: bitfit}")
    assert (
        "stages.sft: adapter.method bitfit: it trains biases, and a llama model has none; ln_tuning comes nearest"
        in said
    )
    for kind, keys in _BIASES.items():
        with pytest.raises(ValueError, match=f"this {kind} model has none; ln_tuning comes nearest"):
            adapted(small(kind))
        assert METHOD.obstacle({"model_type": kind})
        for key in keys:
            assert METHOD.obstacle({"model_type": kind, key: True}) is None
            assert adapted(small(kind, **{key: True})).num_parameters(only_trainable=True)
    assert METHOD.obstacle({"model_type": "qwen2"}) is None
