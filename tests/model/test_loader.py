"""What a stage starts from: the parent's adapter on its base, whole, or a new one where it was asked for."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from conftest import align, attempt, refused, write_rows
from safetensors.torch import load_file
from small_models import base
from stage_runs import adapter_of, stage_run, trainer_of

from pipeline.errors import PipelineError
from pipeline.model.tokenizer import train


def test_the_reward_model_starts_from_the_sft_adapter(stage_of, chain):
    model = stage_of("reward").models.at_the_start()
    sft = adapter_of(chain, "sft")
    now = {name.replace(".default", ""): p for name, p in model.named_parameters()}
    assert all(torch.equal(now[name], tensor) for name, tensor in sft.items())
    assert next(p for name, p in now.items() if "score.modules_to_save" in name).requires_grad


def test_a_dropout_that_a_stage_sets_is_in_the_adapter_that_goes_on_and_in_its_fingerprint(stage_of):
    wanted = ("stages.dpo.train.disable_dropout=false", "stages.dpo.adapter.lora_dropout=0.25")
    plain, same, changed = (stage_of("dpo", *wanted[:1], *more) for more in ((), ("stages.dpo.adapter.r=4",), wanted))
    assert same.step.fingerprint == plain.step.fingerprint != changed.step.fingerprint
    model = changed.models.at_the_start()
    dropouts = {module.p for name, module in model.named_modules() if name.endswith("lora_dropout.default")}
    assert dropouts == {0.25} and model.peft_config["default"].lora_dropout == 0.25


def chatml_recipe(folder: Path, shared: Path) -> None:
    rows = [{"prompt": f"What is {n}?", "completion": f"It is {n}."} for n in range(30)]
    write_rows(folder / "chat.jsonl", rows)
    write_rows(
        folder / "pairs.jsonl", [{"prompt": r["prompt"], "chosen": r["completion"], "rejected": "No."} for r in rows]
    )
    (folder / "chatml.yaml").write_text(
        f"""\
model: {{id: {shared / "models" / "stories260K-hf"}, template: chatml}}
adapter: {{r: 4}}
threads: 1
train: {{max_length: 128, max_steps: 4, per_device_train_batch_size: 2, learning_rate: 1e-2}}
evaluation: {{max_rows: 4, max_new_tokens: 4}}
stages:
  sft: {{data: {{path: chat.jsonl}}}}
  reward: {{data: {{path: pairs.jsonl}}}}
  dpo: {{data: {{path: pairs.jsonl}}}}
"""
    )


def test_new_tokens_of_a_template_are_trained_saved_and_reload_to_the_same_logits(tmp_path, shared, monkeypatch):
    from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification
    from transformers import AutoTokenizer

    chatml_recipe(tmp_path, shared)
    align("run", "-r", "chatml.yaml", cwd=tmp_path)
    runs = tmp_path / "runs" / "chatml"
    rows = {
        stage: load_file(runs / stage / "latest" / "adapter" / "adapter_model.safetensors")
        for stage in ("sft", "dpo", "reward")
    }
    name = next(name for name in rows["sft"] if "trainable_tokens_delta" in name)
    assert not torch.equal(rows["sft"][name], rows["dpo"][name]) and name in rows["reward"]
    folder = runs / "dpo" / "latest" / "adapter"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.pad_token != tokenizer.eos_token
    batch = tokenizer(["<|im_start|>user\nhi<|im_end|>\n"], return_tensors="pt", add_special_tokens=False)
    assert tokenizer.convert_tokens_to_ids("<|im_start|>") in batch.input_ids[0]
    plain = AutoPeftModelForCausalLM.from_pretrained(folder).eval()
    monkeypatch.chdir(tmp_path)
    stage = stage_run("chatml.yaml", "dpo", f"stages.dpo.policy={folder.parent}", folder=tmp_path)
    with torch.no_grad():
        own, theirs = stage.models.at_the_start().eval()(**batch).logits, plain(**batch).logits
        known = len(tokenizer) - len(
            rows["sft"][name]
        )  # the new words' logits are summed in another order than PEFT does
        assert torch.equal(own[..., :known], theirs[..., :known]) and torch.allclose(own, theirs, atol=1e-5)
        trainer, pairs = trainer_of(stage)
        assert float(trainer.compute_loss(trainer.model, trainer.data_collator(pairs[:2]))) == pytest.approx(
            math.log(2), abs=1e-6
        )
    AutoPeftModelForSequenceClassification.from_pretrained(
        runs / "reward" / "latest" / "adapter", num_labels=1, pad_token_id=tokenizer.pad_token_id
    )


@pytest.mark.parametrize("tied", [True, False])
def test_new_tokens_are_in_the_loss_by_pieces_as_they_are_in_that_of_all_logits_at_once(tmp_path, monkeypatch, tied):
    from trl.trainer.sft_trainer import SFTTrainer

    monkeypatch.chdir(tmp_path)
    words = train([f"What is {n}? It is {n}." for n in range(30)], 300)
    base(tmp_path / "base", "llama", words=words, tie_word_embeddings=tied)
    write_rows(tmp_path / "chat.jsonl", [{"prompt": f"{n}?", "completion": f"{n}. " * 40} for n in range(30)])
    recipe = {"name": "new", "model": {"id": "./base", "template": "chatml"}, "adapter": {"r": 4}, "threads": 1}
    Path("new.yaml").write_text(json.dumps(recipe | {"stages": {"sft": {"data": {"path": "chat.jsonl"}}}}))
    found = []
    for kind in (None, "nll"):
        stage = stage_run("new.yaml", "sft", *([f"stages.sft.train.loss_type={kind}"] if kind else []), folder=tmp_path)
        stage.rows.prepare()
        trainer, rows = trainer_of(stage)
        assert isinstance(trainer, SFTTrainer) and trainer.args.loss_type == (kind or "chunked_nll")
        loss = trainer.compute_loss(trainer.model, trainer.data_collator(rows[:8]))
        loss.backward()
        grads = {name: p.grad for name, p in trainer.model.named_parameters() if p.requires_grad}
        found.append((float(loss), grads))
    (loss, grads), (whole, same) = found
    assert loss == pytest.approx(whole, abs=1e-5) and grads.keys() == same.keys()
    assert all(torch.allclose(grad, same[name], atol=1e-6) for name, grad in grads.items())
    learned = [grad for name, grad in grads.items() if "trainable_tokens" in name]
    assert len(learned) == (1 if tied else 2) and all(grad.abs().max() > 0 for grad in learned)


@pytest.mark.slow
def test_a_4_bit_base_in_bf16_trains_adapters_that_stay_fp32(tmp_path, shared):
    chatml_recipe(tmp_path, shared)
    align(
        "run",
        "-r",
        "chatml.yaml",
        "--set",
        "model.load_in_4bit=true",
        "--set",
        "model.dtype=bfloat16",
        cwd=tmp_path,
        alone=True,
    )
    for stage in ("sft", "dpo", "reward"):
        adapter = load_file(tmp_path / "runs" / "chatml" / stage / "latest" / "adapter" / "adapter_model.safetensors")
        assert {tensor.dtype for tensor in adapter.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (
            "{target_modules: [q_proj, q_porj]}",
            "adapter.target_modules: q_porj is no module of the model; did you mean",
        ),
        ("{rank_pattern: {nowhere: 3}}", "adapter.rank_pattern: nowhere is no module of the model"),
        ("{exclude_modules: [q_porj]}", "adapter.exclude_modules: q_porj is no module of the model; did you mean"),
        ("{exclude_modules: q_proj}", "adapter.exclude_modules: q_proj is no module"),  # a pattern of a whole path
        ("{target_parameters: [nowhere]}", "adapter.target_parameters: nowhere is no parameter of the model"),
        ("{target_modules: [q_proj], layers_to_transform: [0, 2]}", "layers_to_transform: the model has no layer 2"),
        ("{r: 3, init_lora_weights: orthogonal}", "The adapter does not fit the base: Orthogonal"),
    ],
)
def test_what_the_model_has_not_is_a_mistake(stage_of, own, said):
    with pytest.raises(PipelineError) as refused:
        stage_of("sft", f"adapter={own}").models.at_the_start()
    assert said in refused.value.what


def test_an_adapter_where_not_all_is_meant(stage_of):
    own = "{exclude_modules: '.*layers.0.*q_proj', target_modules: [q_proj, v_proj], layers_to_transform: 0}"
    model = stage_of("sft", f"adapter={own}").models.at_the_start()
    trained = {
        name.partition(".lora")[0][-len("0.self_attn.v_proj") :]
        for name, p in model.named_parameters()
        if p.requires_grad
    }
    assert trained == {"0.self_attn.v_proj"}


def test_an_adapter_made_for_another_base(built):
    text = (
        (built / "micro.yaml")
        .read_text()
        .replace("hidden_size: 16", "hidden_size: 32")
        .replace("name: micro", "name: wide")
    )
    (built / "wide.yaml").write_text(text)
    align("run", "pretrain", "-r", "wide.yaml", cwd=built)
    model = next((built / "runs" / "wide" / "pretrain").glob("*/model"))
    foreign = built / "foreign"
    shutil.copytree(attempt(built, "sft") / "adapter", foreign)
    said = refused(
        built,
        "run",
        "dpo",
        "-r",
        "micro.yaml",
        "--policy",
        "foreign",
        "--set",
        f"model={{id: {model}}}",
        "--set",
        "stages={dpo: {data: {path: pairs.jsonl}}}",
    )
    assert "made for another base" in said


def test_a_truncated_adapter(built):
    file = attempt(built, "sft") / "adapter" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert "adapter_model.safetensors" in refused(built, "run", "dpo", "-r", "micro.yaml")
