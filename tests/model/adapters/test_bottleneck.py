"""Bottleneck adapters: PEFT has none, so that what it does for other methods has to hold for a tuner of our own."""

import pytest
import small_models
import torch
from peft import AutoPeftModelForCausalLM, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from pipeline.errors import PipelineError
from pipeline.model.adapters import METHODS
from pipeline.model.base import Base
from pipeline.model.saving import save_weights
from pipeline.recipe.sections import Model
from pipeline.use import usage
from pipeline.use.subject import Subject
from pipeline.use.weights import Weights

SHAPE = {"vocab_size": 32, "num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "pad_token_id": 0}
SMALL = {
    "llama": {"intermediate_size": 32, "num_key_value_heads": 1},
    "gpt2": {},
    "gpt_neox": {"intermediate_size": 32},
    "mixtral": {"intermediate_size": 32, "num_key_value_heads": 1, "num_local_experts": 2},
    "opt": {"ffn_dim": 32, "word_embed_proj_dim": 16},
}
IDS = torch.arange(1, 13).reshape(2, 6)


def small(kind: str) -> AutoModelForCausalLM:
    torch.manual_seed(0)
    ends = {"bos_token_id": 1, "eos_token_id": 2}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SHAPE, **SMALL[kind], **ends)).eval()


def adapted(model, **fields) -> PeftModel:
    return get_peft_model(model, METHODS["bottleneck"].settings(fields, task_type="CAUSAL_LM")).eval()


def moved(model: PeftModel) -> PeftModel:
    """With other weights in the adapter than those that do nothing."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    return model


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "mixtral"])
def test_it_stands_behind_both_blocks_of_every_layer_and_begins_as_the_base(kind):
    base = logits(small(kind))
    model = adapted(small(kind))
    assert torch.equal(logits(model), base)
    assert len(model.base_model.targeted_module_names) == 4
    assert not torch.allclose(logits(moved(model)), base)
    with model.disable_adapter():
        assert torch.equal(logits(model), base)
    assert torch.equal(logits(model.unload()), base)


def test_it_computes_what_the_papers_say():
    model = moved(adapted(small("llama"), reduction_factor=4, activation="silu"))
    layer = model.base_model.model.model.layers[0].mlp
    hidden = torch.randn(2, 3, 16)
    down, up = layer.bottleneck_down["default"], layer.bottleneck_up["default"]
    assert down.weight.shape == (4, 16)
    block = layer.base_layer(hidden)
    assert torch.equal(layer(hidden), block + up(torch.nn.functional.silu(down(block))))


def test_pfeiffer_has_half_of_it():
    both, one = (adapted(small("llama"), placement=name) for name in ("houlsby", "pfeiffer"))
    assert both.num_parameters(only_trainable=True) == 2 * one.num_parameters(only_trainable=True)
    assert one.base_model.targeted_module_names == ["model.layers.0.mlp", "model.layers.1.mlp"]


def test_blocks_that_are_not_found_can_be_named():
    with pytest.raises(
        ValueError, match="no feed-forward block is found in layer 0 of this opt model; name its blocks"
    ):
        adapted(small("opt"))
    assert len(adapted(small("opt"), target_modules=["self_attn", "fc2"]).base_model.targeted_module_names) == 4
    with pytest.raises(ValueError, match="yields 32 numbers a token and not the model's 16"):
        adapted(small("opt"), target_modules=["fc1"])


def test_a_base_in_half_precision_has_it_in_full():
    model = adapted(small("llama").to(torch.bfloat16))
    assert {one.dtype for one in model.parameters() if one.requires_grad} == {torch.float32}
    assert logits(moved(model)).dtype == torch.bfloat16


def test_plain_peft_loads_it(tmp_path):
    small("llama").save_pretrained(tmp_path / "base")
    model = moved(adapted(AutoModelForCausalLM.from_pretrained(tmp_path / "base")))
    save_weights(model, tmp_path / "adapter")
    assert torch.equal(logits(AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()), logits(model))
    with pytest.raises(ValueError, match="A bottleneck has no merged form"):
        model.merge_and_unload()


def test_the_card_says_what_plain_peft_needs():
    adapter = {"method": "bottleneck", "r": None, "new_tokens": False, "needs": METHODS["bottleneck"].module}
    said = {"what": "adapter", "head": "causal", "stage": "sft", "adapter": adapter}
    text = usage.python(said | {"base": {"load_in_4bit": False, "repository": "bob/base"}}, "ada/mine")
    compile(text, "card", "exec")
    assert text.startswith("import pipeline.model.adapters.bottleneck_tuner ")


def test_exports_that_begin_with_a_merge_refuse_it_by_name(tmp_path):
    base = small_models.base(tmp_path / "base")
    save_weights(adapted(AutoModelForCausalLM.from_pretrained(base)), tmp_path / "adapter")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "adapter")
    subject = Subject("sft", tmp_path / "adapter", Base(None, str(base)), Model(id=str(base)))
    with pytest.raises(PipelineError, match="sft: an adapter of BOTTLENECK has no form within the base's weights"):
        Weights(subject, "float32")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("bottleneck_dropout: 1", "bottleneck_dropout: must be from 0 to below 1, not 1"),
        ("reduction_factor: 0", "reduction_factor: must be at least 1, not 0"),
        ("placement: parallel", "placement: must be one of houlsby, pfeiffer"),
        ("target_modules: [mlp], placement: pfeiffer", "placement: cannot take effect with target_modules"),
        ("target_modules: all-linear", "target_modules: must be"),
    ],
)
def test_its_settings_are_checked(problems, keys, said):
    text = "model: {id: m}\nstages: {sft: {data: {path: c}}}\nadapter: {method: bottleneck, " + keys + "}"
    assert any(said in one for one in problems(text))


def test_its_dropout_may_be_changed_on_the_way_where_it_takes_effect(read, problems):
    text = "model: {id: m}\nadapter: {method: bottleneck}\nstages: {sft: {data: {path: c}}, dpo: {data: {path: c}}}"
    own = "stages.dpo.adapter={bottleneck_dropout: 0.1}"
    assert read(text, own, "stages.dpo.train.disable_dropout=false").stage("dpo").adapter["bottleneck_dropout"] == 0.1
    assert any("bottleneck_dropout: cannot take effect: dropout is switched off" in one for one in problems(text, own))
