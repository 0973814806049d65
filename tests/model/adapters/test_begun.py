"""PiSSA and OLoRA begin with a part of the base's weights: trained as PEFT trains them, and left as one plain LoRA."""

import json
import math
import shutil

import pytest
import small_models
import torch
from conftest import align, attempt, manifest, refused
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from pipeline.model.adapters import METHODS, method_on
from pipeline.model.base import Base
from pipeline.model.loader import Loader
from pipeline.model.tokenizer import Prepared
from pipeline.recipe.sections import Model

IDS = torch.arange(3, 27).reshape(2, 12)
FIELDS = {"r": 4, "lora_alpha": 6, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
HOW = ["pissa", "olora"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_models.base(tmp_path_factory.mktemp("base") / "llama", "llama")


def begun(base, how: str, **more):
    fields = FIELDS | more | {"init_lora_weights": how}
    method = METHODS["lora"].of(fields)
    return method, method.put_on(base, method.settings(fields))


def stepped(model) -> torch.Tensor:
    """Its logits after some steps."""
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
    return logits(model)


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model(input_ids=IDS).logits


@pytest.mark.parametrize("how", HOW)
def test_it_trains_what_peft_trains_on_a_base_that_it_leaves_alone(folder, how):
    load, settings = AutoModelForCausalLM.from_pretrained, LoraConfig(**FIELDS, init_lora_weights=how)
    bare = load(folder)
    expected = stepped(get_peft_model(load(folder), settings))
    method, model = begun(load(folder), how)
    assert torch.allclose(logits(model), logits(bare), atol=1e-4)
    found = stepped(model)
    assert not torch.allclose(found, logits(bare), atol=0.05)
    assert torch.allclose(found, expected, atol=2e-3)
    plain = method.finished(model)
    assert torch.allclose(logits(plain), found, atol=1e-4)
    with plain.disable_adapter():
        assert torch.equal(logits(plain), logits(bare))
    config = plain.peft_config["default"]
    assert (config.r, config.lora_alpha, config.init_lora_weights) == (8, 12, True)
    assert method_on(plain) is METHODS["lora"] and list(plain.peft_config) == ["default"]


def test_ranks_of_their_own_and_new_tokens_are_in_what_is_left(folder):
    words = small_models.tokenizer()
    words.add_special_tokens({"additional_special_tokens": ["<|new|>"]}, replace_extra_special_tokens=False)
    loader = Loader(Model(id=str(folder)), 0, Base(None, str(folder)), Prepared(words, new_tokens=("<|new|>",)))
    settings = {
        "method": "lora",
        "r": 2,
        "init_lora_weights": "pissa",
        "rank_pattern": {"q_proj": 3},
    }
    model = loader.model(None, settings | {"target_modules": "all-linear"})
    found = stepped(model)
    plain = method_on(model).finished(model)
    assert torch.allclose(logits(plain), found, atol=1e-4)
    assert plain.peft_config["default"].rank_pattern == {"q_proj": 6}
    kept = dict(plain.named_parameters())
    assert any("trainable_tokens" in name for name in kept)
    assert kept["base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"].shape[0] == 6


def test_a_score_head_is_in_what_is_left(folder):
    loader = Loader(Model(id=str(folder)), 0, Base(None, str(folder)), Prepared(small_models.tokenizer()), "score")
    model = loader.model(None, {"method": "lora", "r": 2, "target_modules": "all-linear", "init_lora_weights": "olora"})
    assert any("score.modules_to_save.default" in name for name, one in model.named_parameters() if one.requires_grad)
    with torch.no_grad():
        for one in model.parameters():
            one.add_(0.01) if one.requires_grad else one
    found = logits(model)
    assert torch.allclose(logits(method_on(model).finished(model)), found, atol=1e-4)


def test_what_has_no_such_part_is_refused(folder):
    with pytest.raises(ValueError, match=r"fewer than r = 40 ranks; lower adapter.r"):
        begun(AutoModelForCausalLM.from_pretrained(folder), "pissa", r=40)
    with pytest.raises(ValueError, match=r"is for linear layers, and model.embed_tokens is none"):
        begun(AutoModelForCausalLM.from_pretrained(folder), "pissa", target_modules=["embed_tokens"])
    shape = GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=32)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(shape).eval()
    before = logits(model)
    assert torch.allclose(
        logits(begun(model, "pissa")[1].eval()), before, atol=1e-4
    )  # its layers keep weights the other way
    with pytest.raises(ValueError, match="init_lora_weights: olora"):
        begun(GPT2LMHeadModel(shape), "olora")


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("adapter: {init_lora_weights: pissa, use_dora: true}", "use_dora: does not go with init_lora_weights: pissa"),
        ("adapter: {init_lora_weights: olora, use_rslora: true}", "use_rslora: does not go with init_lora_weights"),
        ("adapter: {init_lora_weights: olora, lora_bias: true}", "lora_bias: does not go with init_lora_weights"),
        ("adapter: {init_lora_weights: eva}", "eva is refused: it rewrites the base"),
    ],
)
def test_what_does_not_go_together_is_refused(problems, recipe, said):
    assert any(said in one for one in problems(f"model: {{id: m}}\nstages: {{sft: {{data: {{path: c}}}}}}\n{recipe}"))


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantized_base_has_no_such_weights(problems, bits):
    text = f"model: {{id: m, load_in_{bits}bit: true}}\nstages: {{sft: {{data: {{path: c}}}}}}"
    said = f"adapter.init_lora_weights: PEFT does not put pissa onto a base in {bits} bits"
    assert any(said in one for one in problems(text, "adapter.init_lora_weights=pissa"))


def test_stages_after_it_go_on_with_a_plain_one(read):
    text = "model: {id: m}\nadapter: {r: 4, init_lora_weights: pissa}\nstages: {sft: {data: {path: c}}, dpo: {data: {path: c}}}"
    shown = read(text).resolved()["stages"]
    (first, second) = (
        [shown[stage]["adapter"][key] for key in ("r", "lora_alpha", "init_lora_weights")] for stage in ("sft", "dpo")
    )
    assert first == [4, 32, "pissa"] and second == [8, 64, True]


def test_the_chain_from_it_to_a_merged_policy(chain, tmp_path):
    """Measured, measured again, gone on from, merged; but roles do not begin with it."""
    for file in ("micro.yaml", "chat.jsonl", "pairs.jsonl", "text.jsonl"):
        shutil.copy(chain / file, tmp_path / file)
    shutil.copytree(chain / "runs/micro/pretrain", tmp_path / "runs/micro/pretrain", symlinks=True)
    given = ("-r", "micro.yaml", "--set", "adapter.init_lora_weights=pissa")
    align("run", "sft", "dpo", *given, cwd=tmp_path)
    made = attempt(tmp_path, "sft") / "adapter"
    config = json.loads((made / "adapter_config.json").read_text())
    assert (config["r"], config["init_lora_weights"]) == (8, True)
    lines = (attempt(tmp_path, "dpo") / "log.jsonl").read_text().splitlines()
    assert abs(json.loads(lines[0])["loss"] - math.log(2)) < 0.1
    after = manifest(tmp_path, "sft")["metrics"]["after"]
    align("run", "sft", *given, "--set", "evaluation.max_new_tokens=5", cwd=tmp_path)
    again = manifest(tmp_path, "sft")["metrics"]["after"]
    assert again["loss"] == pytest.approx(after["loss"], rel=1e-5)
    assert json.loads(align("merge", "dpo", *given, "--json", cwd=tmp_path).stdout)["proof"]["kl"] < 1e-5
    base, reward = attempt(tmp_path, "pretrain") / "model", attempt(chain, "reward") / "adapter"
    options = ("--set", f"stages.ppo.policy={base}", "--set", f"stages.ppo.reward={reward}")
    said = refused(tmp_path, "plan", "ppo", *given, *options)
    assert "several roles on one base does not go with adapter.init_lora_weights" in said
    assert (
        load_file(made / "adapter_model.safetensors").keys()
        == load_file(attempt(chain, "sft") / "adapter/adapter_model.safetensors").keys()
    )
