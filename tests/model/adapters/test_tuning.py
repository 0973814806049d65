"""Each method of tuning in the chain: what it trains, what it leaves alone, and what the stages after it start from."""

import json
import math
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import align, attempt, refused
from stage_runs import stage_run
from transformers import AutoModelForCausalLM

from pipeline.artifact.attempt import Attempt
from pipeline.model.adapter_tensors import load_adapter
from pipeline.model.adapters import METHODS, NAMED, NOT_HERE
from pipeline.model.proofs import failures, prove
from pipeline.model.saving import save
from pipeline.recipe.fields import fields_of
from pipeline.recipe.owned import adapter_owned

ADAPTERS = [name for name in NAMED if not METHODS[name].whole]
BY_CLASS = [name for name, method in METHODS.items() if method.by_class]
# What fits so narrow a model.
SMALL = {
    "C3AConfig": {"block_size": 8},
    "FourierFTConfig": {"n_frequency": 20},
    "RoadConfig": {"group_size": 8},
    "ShiraConfig": {"r": 2},
    "VBLoRAConfig": {"vector_length": 8, "num_vectors": 16},
    "WaveFTConfig": {"n_frequency": 20},
}
CHAINED = {name: f"method: {name}" for name in ADAPTERS} | {
    "LoRA+": "method: lora, loraplus_lr_ratio: 4",
    "PiSSA": "method: lora, r: 4, init_lora_weights: pissa",
    "fast PiSSA": "method: lora, r: 4, init_lora_weights: pissa_niter_4, loraplus_lr_ratio: 2",
    "OLoRA": "method: lora, r: 4, init_lora_weights: olora",
}
SLOWLY = [
    pytest.param(
        ", ".join([f"method: {name}", *(f"{key}: {value}" for key, value in SMALL.get(name, {}).items())]),
        marks=pytest.mark.slow,
    )
    for name in BY_CLASS
]
LEARNING_RATE = "stages.sft.train.learning_rate=1e-2"


@pytest.fixture
def pretrained(chain, tmp_path, monkeypatch) -> Path:
    """A folder with the recipe, its data and its base alone."""
    for file in ("micro.yaml", "text.jsonl", "chat.jsonl", "pairs.jsonl"):
        shutil.copy(chain / file, tmp_path / file)
    shutil.copytree(chain / "runs/micro/pretrain", tmp_path / "runs/micro/pretrain", symlinks=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ready(folder: Path, name: str, *overrides: str):
    """A stage in this folder with its rows prepared."""
    folder.mkdir(exist_ok=True)
    stage = stage_run("micro.yaml", name, *overrides, folder=folder)
    stage.rows.prepare()
    return stage


def base_of(chain: Path, name: str = "lora"):
    biases = dict.fromkeys(("attention_bias", "mlp_bias"), name == "bitfit")  # it needs some; they begin at 0
    return AutoModelForCausalLM.from_pretrained(attempt(chain, "pretrain") / "model", **biases)


@pytest.mark.parametrize("name", [*ADAPTERS, *BY_CLASS])
def test_what_the_chain_relies_on(chain, name):
    found = prove(partial(base_of, chain, name), METHODS[name], dict(METHODS[name].defaults) | SMALL.get(name, {}))
    assert not list(failures(found)), found


@pytest.mark.parametrize("how", ["pissa", "pissa_niter_4", "olora"])
def test_what_the_chain_relies_on_where_it_begins_with_a_part_of_the_base(chain, how):
    fields = dict(METHODS["lora"].defaults) | {"r": 4, "init_lora_weights": how}
    found = prove(partial(base_of, chain), METHODS["lora"].of(fields), fields)
    assert not list(failures(found)), found


def test_a_method_that_rewrites_the_base_is_found_out(chain):
    fields = {"r": 4, "target_modules": "all-linear", "init_lora_weights": "pissa"}
    assert "base untouched" in failures(prove(partial(base_of, chain), METHODS["lora"], fields))


@pytest.mark.parametrize("settings", [*CHAINED.values(), *SLOWLY], ids=[*CHAINED, *BY_CLASS])
def test_it_is_trained_resumed_and_gone_on_from(pretrained, settings):
    method, room = f"adapter={{{settings}}}", "stages.{}.train.max_length=44"  # virtual tokens take the rest
    model, below = attempt(pretrained, "pretrain") / "model", ()
    if "bitfit" in settings:
        model = shutil.copytree(model, pretrained / "biased")
        base_of(pretrained, "bitfit").save_pretrained(model)
        below = (f"model={{id: {model}}}",)
        recipe = pretrained / "micro.yaml"
        recipe.write_text(recipe.read_text().replace("  pretrain: {data: {path: text.jsonl}}\n", ""))
    stage = ready(pretrained / "first", "sft", method, room.format("sft"), LEARNING_RATE, *below)
    trainer = stage.trainer(stage.models.at_the_start())
    frozen = {key: one.clone() for key, one in trainer.model.named_parameters() if not one.requires_grad}
    started = {key: one.clone() for key, one in trainer.model.named_parameters() if one.requires_grad}
    trainer.train()
    moved = {key: one.detach().clone() for key, one in trainer.model.named_parameters()}
    assert all(torch.equal(moved[key], one) for key, one in frozen.items())
    assert any(not torch.equal(moved[key], one) for key, one in started.items())
    trainer.finish()
    whole = {key: one.detach().clone() for key, one in trainer.model.named_parameters()}
    output = save(trainer.model, stage.rows.tokenizer.tokenizer, stage.folder)

    # A run that ended after the first checkpoint goes on to the same weights, to the bit.
    again = pretrained / "again"
    (again / "checkpoints").mkdir(parents=True)
    step, earliest = Attempt(stage.folder).checkpoints()[-1]
    assert step < trainer.state.global_step
    shutil.copytree(earliest, again / "checkpoints" / earliest.name)
    resumed = ready(again, "sft", method, room.format("sft"), LEARNING_RATE, *below)
    other = resumed.trainer(resumed.models.at_the_start())
    other.train(resume_from_checkpoint=str(again / "checkpoints" / earliest.name))
    other.finish()
    assert all(torch.equal(one, whole[key]) for key, one in other.model.named_parameters())

    # DPO starts from it, and it is the reference.
    base = f"model={{id: {model}}}"
    after = ready(
        pretrained / "dpo", "dpo", method, room.format("dpo"), base, f"stages.dpo.policy={stage.folder / output}"
    )
    chosen = after.trainer(after.models.at_the_start())
    batch = chosen.data_collator([chosen.train_dataset[number] for number in range(4)])
    with torch.no_grad():
        assert float(chosen.compute_loss(chosen.model, dict(batch))) == pytest.approx(math.log(2), abs=1e-6)
    load_adapter(trainer.model, stage.folder / output)
    assert all(torch.equal(one, whole[key]) for key, one in trainer.model.named_parameters())


def test_without_room_for_a_reference_beside_it_dpo_trains_the_same(pretrained, monkeypatch):
    """Its log-probabilities are then those of the policy before its first step, or of a model of its own."""
    found, recipe = [], pretrained / "micro.yaml"
    recipe.write_text(recipe.read_text().partition("  ppo:")[0])  # it needs the room
    for beside, kept in ((True, "true"), (False, "true"), (False, "false")):
        monkeypatch.setitem(METHODS["ia3"].__dict__, "beside", beside)
        options = (
            "adapter={method: ia3}",
            "stages.dpo.train.learning_rate=1e-2",
            f"stages.dpo.train.precompute_ref_log_probs={kept}",
        )
        shutil.rmtree(pretrained / "runs/.data", ignore_errors=True)
        policy = f"stages.dpo.policy={attempt(pretrained, 'pretrain') / 'model'}"
        stage = ready(pretrained / f"dpo-{beside}-{kept}", "dpo", *options, policy)
        trainer = stage.trainer(stage.models.at_the_start())
        assert ("ref" in trainer.model.peft_config) == (beside and kept == "false")
        trainer.train()
        found.append({key: one.detach().clone() for key, one in trainer.model.named_parameters() if one.requires_grad})
    for other in found[1:]:
        assert all(torch.allclose(one, found[0][key], atol=1e-6) for key, one in other.items())


def test_the_whole_chain_on_vectors_alone(pretrained):
    """Reference, reward and value beside the policy on one base; then merged, and proven to be the same."""
    method = ("-r", "micro.yaml", "--set", "adapter={method: ia3}")
    align("run", "sft", "reward", "ppo", *method, cwd=pretrained)
    said = json.loads(align("merge", "ppo", *method, "--json", cwd=pretrained).stdout)
    assert said["proof"]["kl"] < 1e-5


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_key_is_taken_or_refused_with_a_reason(name):
    config = METHODS[name].config
    refusals = adapter_owned(config)
    assert METHODS[name].refused.keys() <= fields_of(config).keys()
    assert all(
        METHODS[name].defaults[key] != field.default
        for key, field in fields_of(config).items()
        if key in METHODS[name].defaults
    )
    assert all(refusals.values())


@pytest.mark.parametrize(
    ("adapter", "said"),
    [
        ("{method: adalora, init_r: 8}", "adapter.init_r: must be more than target_r, 8"),
        ("{method: adalora, r: 8}", "adapter.r: is not set in a recipe: the ranks are what the method finds"),
        (
            "{method: adalora, total_step: 8}",
            "adapter.total_step: is not set in a recipe: the steps of the stage are it",
        ),
        ("{method: ia4}", "it can be; did you mean ia3?"),
        ("{method: ia3, r: 4}", "adapter.r: belongs to method lora, and this is ia3"),
        ("{method: oft, r: 4}", "adapter.r: is not set in a recipe: oft_block_size says it"),
        (
            "{method: boft, boft_dropout: 0.1}",
            "adapter.boft_dropout: is not set in a recipe: TRL could not switch it off",
        ),
        ("{method: oft, eps: 0.1}", "adapter.eps: cannot take effect with coft: false; it does with true"),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(pretrained, adapter, said):
    assert said in refused(pretrained, "plan", "-r", "micro.yaml", "--set", f"adapter={adapter}")


def test_another_method_cannot_go_on_from_an_adapter(pretrained):
    said = refused(pretrained, "plan", "-r", "micro.yaml", "--set", "stages.dpo.adapter={method: ia3}")
    assert "stages.dpo.adapter.method: cannot take effect: the adapter of sft goes on here, whose method is" in said


def test_what_is_not_here_names_what_comes_nearest():
    assert not NOT_HERE.keys() & METHODS.keys()
    assert all(any(method in said for method in METHODS) for said in NOT_HERE.values())


def test_the_table_counts_what_is_trained(chain):
    rows = {row["method"]: row for row in json.loads(align("methods", "-r", "micro.yaml", "--json", cwd=chain).stdout)}
    base = base_of(chain)
    assert rows["full"]["trained"] == base.num_parameters()
    from peft import get_peft_model

    for name in ADAPTERS:
        if name == "bitfit":  # the recipe's model has no biases
            assert "this llama model has none" in rows[name]["why_not"]
            continue
        model = get_peft_model(
            base_of(chain), METHODS[name].settings(dict(METHODS[name].defaults), task_type="CAUSAL_LM")
        )
        trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
        if name != "lora":  # the recipe says its own
            assert rows[name]["trained"] == trained
