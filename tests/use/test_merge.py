"""A merged folder says what base and adapter say, whatever the adapter is, and is whole or not there."""

import json
import os
import re
import subprocess
import sys

import pytest
import small_models
import torch
from conftest import align, attempt
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from pipeline.errors import PipelineError
from pipeline.model.base import Base
from pipeline.plan.gc import Garbage
from pipeline.recipe.sections import Model
from pipeline.use import export as exports
from pipeline.use import questions
from pipeline.use.export import Export, export
from pipeline.use.loaded import load, tokenizer_of
from pipeline.use.merge import Merged
from pipeline.use.subject import Subject, find


def subject(folder, base, **model) -> Subject:
    return Subject("model", folder, Base(None, str(base)), Model(id=str(base), **model))


def merged(one: Subject, to, dtype=None) -> Export:
    return export(one, Merged(one, questions.of(one, tokenizer_of(one), None), dtype), to=to)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return small_models.base(tmp_path_factory.mktemp("base") / "qwen3")


@pytest.fixture(scope="module")
def untied(tmp_path_factory):
    return small_models.base(tmp_path_factory.mktemp("base") / "qwen2", "qwen2", tie_word_embeddings=False)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_dora": True},
        {"use_rslora": True, "rank_pattern": {"q_proj": 8}, "alpha_pattern": {"down_proj": 32}},
        {"new_tokens": ("<|new|>", "<|other|>")},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"modules_to_save": ["lm_head"]},
    ],
    ids=lambda options: "-".join(options) or "lora",
)
def test_every_kind_of_adapter_merges_to_the_same_model(base, tmp_path, options):
    adapter = small_models.adapter(tmp_path / "adapter", base, **options)
    proof = merged(subject(adapter, base), tmp_path / "merged").proof
    assert proof["proven"] and proof["kl"] < 1e-9 and proof["answers"]["equal"] == len(questions.BUILT_IN)
    # Head and embeddings part only where the adapter changes one of them.
    parts = options.get("modules_to_save") or "embed_tokens" in options.get("target_modules", ())
    config = AutoConfig.from_pretrained(tmp_path / "merged")
    assert config.tie_word_embeddings is not bool(parts)
    assert ("lm_head.weight" in load_file(tmp_path / "merged/model.safetensors")) is bool(parts)


@pytest.mark.parametrize(
    "options", [{"new_tokens": ("<|new|>",)}, {"lora_bias": True, "target_modules": ["q_proj", "v_proj"]}]
)
def test_untied_heads_and_biases_are_merged_too(untied, tmp_path, options):
    proof = merged(subject(small_models.adapter(tmp_path / "adapter", untied, **options), untied), tmp_path / "m").proof
    assert proof["proven"] and proof["kl"] < 1e-9


def test_qlora_is_merged_onto_the_base_that_it_was_trained_on_and_loses_its_4_bits(base, tmp_path):
    adapter = small_models.adapter(tmp_path / "adapter", base)
    one = subject(adapter, base, load_in_4bit=True, dtype="bfloat16")
    found = merged(one, tmp_path / "merged")
    assert found.proof["proven"] and found.proof["kl"] < 1e-3
    assert "quantization_config" not in json.loads((tmp_path / "merged/config.json").read_text())
    (policy,) = load([one])
    name = "model.layers.0.mlp.up_proj"
    there = load_file(tmp_path / "merged/model.safetensors")[f"{name}.weight"]
    expected = small_models.onto_the_quantized(policy.model, adapter, name)
    assert torch.equal(there, expected.to(torch.bfloat16))


def test_shards_stay_those_of_the_base_and_one_tensor_at_a_time_is_in_memory(tmp_path):
    """Peak memory: of a model in several files a process that has imported torch grows by less than two files."""
    shape = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 5, "head_dim": 64}
    base = small_models.base(tmp_path / "base", "llama", shard_size="90MB", **shape)
    adapter = small_models.adapter(tmp_path / "adapter", base)
    code = f"""
import resource, sys
sys.path.insert(0, {str(small_models.__file__.rpartition("/")[0])!r})
from pathlib import Path
from use.test_merge import subject
from pipeline.use.weights import Weights
from pipeline.use.merge import write
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
weights, before = Weights(subject(Path({str(adapter)!r}), Path({str(base)!r})), "float32"), peak()
write(weights, Path({str(tmp_path / "merged")!r}))
print(peak() - before)
"""
    (tmp_path / "merged").mkdir()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    files = sorted(base.glob("*.safetensors"))
    written = sorted((tmp_path / "merged").glob("*.safetensors"))
    assert len(files) > 3 and [one.name for one in written] == [one.name for one in files]
    assert int(done.stdout) < 2 * max(one.stat().st_size for one in files)
    (policy,) = load([subject(adapter, base)])
    right = policy.model.merge_and_unload().state_dict()
    there = {name: one for file in written for name, one in load_file(file).items()}
    assert there.keys() == right.keys() - {"lm_head.weight"}
    assert all(torch.equal(one, right[name]) for name, one in there.items())


@pytest.fixture(autouse=True)
def here(chain, monkeypatch):
    monkeypatch.chdir(chain)


def test_stage_is_merged_once_told_by_status_and_goes_with_its_attempt(chain, recipe):
    said = align("merge", "dpo", "-r", "micro.yaml", cwd=chain).stdout
    folder = chain / said.rstrip().splitlines()[-1]
    assert "allowed: KL 1.0e-05; another token" in said
    assert "15 of 15" in said and folder.parent == attempt(chain, "dpo") / "exports"
    written = (folder / "model.safetensors").stat().st_mtime_ns
    again = align("merge", "dpo", "-r", "micro.yaml", cwd=chain).stdout
    assert "up to date" in again and (folder / "model.safetensors").stat().st_mtime_ns == written
    told = json.loads(align("status", "dpo", "-r", "micro.yaml", "--json", cwd=chain).stdout)
    (one,) = (one for one in told[-1]["exports"] if (chain / one["folder"]) == folder)
    assert one["proven"] and one["damage"] is None and one["proof"]["of"] == "held-out rows of dpo"
    assert re.search(rf"exports/{folder.name}  proven", align("status", "-r", "micro.yaml", cwd=chain).stdout)
    assert not Garbage(recipe, chain / "runs").unneeded(True)
    # Stop, template and padding are those that were trained.
    model, words = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    trained = AutoTokenizer.from_pretrained(attempt(chain, "dpo") / "adapter")
    assert words.chat_template == trained.chat_template and words.eos_token == trained.eos_token
    assert model.generation_config.eos_token_id == [trained.eos_token_id] and not hasattr(model, "peft_config")


def test_damaged_export_is_made_again_and_a_killed_one_swept_away(chain, recipe):
    one = find("sft", recipe, chain / "runs")
    found = merged(one, None, "bfloat16")
    file = found.folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")  # of the right size
    assert merged(one, None, "bfloat16").damage(content=True) is None
    file.write_bytes(b"half")
    left = found.folder.with_name(f".{found.folder.name}.unfinished-abc")
    left.mkdir()
    again = merged(one, None, "bfloat16")
    assert again.folder == found.folder and again.damage(content=True) is None and not left.exists()
    (again.folder / "export.json").write_text((again.folder / "export.json").read_text().replace("sft", "dpo"))
    with pytest.raises(PipelineError, match="was changed after it was written"):
        merged(one, None, "bfloat16")


def test_reward_model_keeps_its_head_and_its_scores(chain, recipe, tmp_path):
    found = merged(find("reward", recipe, chain / "runs"), tmp_path / "reward")
    assert found.proven and found.proof["scores"]["largest_difference"] < 1e-5
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward")
    assert model.config.num_labels == 1 and model.config.pad_token_id == 3


def test_full_model_is_copied_in_the_dtype_that_is_asked_for(chain, recipe, tmp_path):
    found = merged(find("pretrain", recipe, chain / "runs"), tmp_path / "half", "float16")
    tensors = load_file(tmp_path / "half/model.safetensors")
    assert {one.dtype for one in tensors.values()} == {torch.float16} and found.proven
    assert json.loads((tmp_path / "half/config.json").read_text())["dtype"] == "float16"


def test_folder_of_elsewhere_needs_a_place_and_no_other_is_overwritten(base, tmp_path):
    adapter = small_models.adapter(tmp_path / "adapter", base)
    one = subject(adapter, base)
    with pytest.raises(PipelineError, match="--to folder"):
        merged(one, None)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/thesis.txt").write_text("mine")
    with pytest.raises(PipelineError, match="is there already"):
        merged(one, tmp_path / "taken")
    merged(one, tmp_path / "here")
    other = small_models.adapter(tmp_path / "other", base, seed=2)
    with pytest.raises(PipelineError, match="is another export"):
        merged(subject(other, base), tmp_path / "here")
    assert sorted(os.listdir(tmp_path)) == ["adapter", "here", "other", "taken"]


def test_bad_input_is_refused_before_anything_is_written(base, tmp_path, monkeypatch):
    adapter = small_models.adapter(tmp_path / "adapter", base)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"init_lora_weights": "pissa"}))
    with pytest.raises(PipelineError, match="pissa, which changes the base"):
        merged(subject(adapter, base), tmp_path / "to")
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    monkeypatch.setattr(exports.shutil, "disk_usage", lambda folder: type("", (), {"free": 1000}))
    with pytest.raises(PipelineError, match="are free"):
        merged(subject(adapter, base), tmp_path / "to")
    monkeypatch.undo()
    tensors = load_file(base / "model.safetensors")
    broken = small_models.base(tmp_path / "broken")
    save_file(
        tensors | {"model.norm.weight": tensors["model.norm.weight"] * 1e6},
        broken / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(PipelineError, match=r"model.norm.weight has numbers that float16 has not"):
        merged(subject(broken, broken), tmp_path / "to", "float16")
    assert sorted(os.listdir(tmp_path)) == ["adapter", "broken"]
