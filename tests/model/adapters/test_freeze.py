"""The last layers are trained alone: what moves, what stays, what the optimizer holds, and what comes after."""

import math

import pytest
import torch
from conftest import attempt
from safetensors.torch import load_file
from stage_runs import stage_run

from pipeline.model.adapters import METHODS, NAMED
from pipeline.model.base import Base
from pipeline.model.census import counts
from pipeline.model.saving import save
from pipeline.recipe.sections import Model

FREEZE = ("adapter={method: freeze, layers: 1}", "train.learning_rate=1e-2")


@pytest.fixture
def stage(copied, monkeypatch):
    """A stage of the micro chain on its pretrained model."""

    def start(name: str, *overrides: str, policy=None):
        folder = copied("sft")
        monkeypatch.chdir(folder)
        base = policy or attempt(folder, "pretrain") / "model"
        recipe = folder / "micro.yaml"
        recipe.write_text(recipe.read_text().partition("  ppo:")[0])  # its roles need adapters
        (folder / name / "checkpoints").mkdir(parents=True)
        made = stage_run("micro.yaml", name, *FREEZE, f"stages.{name}.policy={base}", *overrides, folder=folder / name)
        made.rows.prepare()
        return made

    return start


def trained(name: str) -> bool:
    return ".layers.1." in name


def test_the_last_layer_moves_alone_and_the_optimizer_holds_nothing_else(stage):
    sft = stage("sft")
    model = sft.models.at_the_start()
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    assert sft.step.inputs["adapter"] == {"method": "freeze", "layers": 1}
    trainer = sft.trainer(model)
    trainer.train()
    moved = {name for name, one in trainer.model.named_parameters() if not torch.equal(one, before[name])}
    assert moved and all(trained(name) for name in moved)
    held = {id(one) for group in trainer.optimizer.param_groups for one in group["params"]}
    assert held == {id(one) for name, one in trainer.model.named_parameters() if trained(name)}
    assert save(trainer.model, sft.rows.tokenizer.tokenizer, sft.folder) == "model"
    saved = load_file(sft.folder / "model" / "model.safetensors")
    assert all(torch.equal(saved[name], one) for name, one in before.items() if name in saved and name not in moved)

    # A run that ended after its first checkpoint goes on to the same weights, to the bit.
    whole = {name: one.detach().clone() for name, one in trainer.model.named_parameters()}
    first = min((sft.folder / "checkpoints").glob("checkpoint-*"), key=lambda one: int(one.name.rpartition("-")[2]))
    assert int(first.name.rpartition("-")[2]) < 12
    again = sft.trainer(sft.models.at_the_start())
    again.train(resume_from_checkpoint=str(first))
    assert all(torch.equal(one, whole[name]) for name, one in again.model.named_parameters())


def test_dpo_begins_as_its_reference(stage):
    dpo = stage("dpo")
    trainer = dpo.trainer(dpo.models.at_the_start())
    batch = trainer.data_collator([trainer.train_dataset[number] for number in range(4)])
    with torch.no_grad():
        assert float(trainer.compute_loss(trainer.model, dict(batch))) == pytest.approx(math.log(2), abs=1e-6)


def test_a_score_head_is_trained_beside(stage):
    model = stage("reward").models.at_the_start()
    names = {name for name, one in model.named_parameters() if one.requires_grad}
    assert "score.weight" in names and all(trained(name) or name == "score.weight" for name in names)


RECIPE = "model: {id: m}\nadapter: {method: freeze, %s}\nstages: {sft: {data: {path: c}}}"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("layers: 0", "adapter.layers: must be a whole number of at least 1, not 0"),
        ("layers: all", "adapter.layers: must be a whole number of at least 1"),
        ("r: 4", "adapter.r: belongs to method lora; method freeze has no adapter"),
    ],
)
def test_its_settings_are_checked(problems, keys, said):
    assert any(said in one for one in problems(RECIPE.replace("%s", keys)))


def test_a_stage_may_have_more_layers_and_two_are_the_default(read):
    text = RECIPE.replace(", %s", "").replace("path: c}}", "path: c}, adapter: {layers: 3}}, dpo: {data: {path: c}}")
    loaded = read(text)
    assert loaded.stage("sft").adapter == {"method": "freeze", "layers": 3}
    assert loaded.stage("dpo").adapter == {"method": "freeze"} | dict(METHODS["freeze"].numbers)


def test_the_table_counts_the_layers_that_are_trained():
    config = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3}
    config |= {"num_attention_heads": 2, "num_key_value_heads": 1}
    whole, found = counts(Base(None, None), Model(config=config), 32, [METHODS[name] for name in NAMED], {})
    (one,) = (count for count in found if count.method.name == "freeze")
    assert one.saved == 4 * whole and one.trained == 2 * (16 * 16 * 2 + 16 * 8 * 2 + 3 * 16 * 32 + 2 * 16)


def test_a_model_with_fewer_layers_is_refused(stage):
    with pytest.raises(Exception, match="the model has no 9 layers"):
        stage("sft", "adapter.layers=9").models.at_the_start()
