"""LoRA+: B learns faster than A, in every stage, as PEFT's optimizer has it."""

import pytest
import torch
from conftest import plan, refused
from peft.optimizers import create_loraplus_optimizer
from stage_runs import trainer_of
from transformers import Trainer

PLUS = "stages.{}.adapter={{loraplus_lr_ratio: 4}}"


def trained(trainer) -> dict[str, torch.Tensor]:
    trainer.train()
    return {name: one.detach().clone() for name, one in trainer.model.named_parameters() if one.requires_grad}


@pytest.mark.parametrize("more", ["lora_bias: true", "use_dora: true"])
def test_it_is_what_pefts_optimizer_does(stage_of, more):
    options = f"adapter={{r: 4, {more}}}", "stages.sft.train.save_strategy='no'"
    found = trained(trainer_of(stage_of("sft", *options, PLUS.format("sft")))[0])
    other = trainer_of(stage_of("sft", *options))[0]
    kind, options = Trainer.get_optimizer_cls_and_kwargs(other.args, other.model)
    other.optimizer = create_loraplus_optimizer(other.model, kind, loraplus_lr_ratio=4, **options)
    expected = trained(other)
    assert found.keys() == expected.keys() and all(torch.equal(found[name], one) for name, one in expected.items())


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo", "ppo"])
def test_every_stage_has_it(stage_of, stage):
    rate = {"default": 1e-3, "value": 2e-3}
    given = [PLUS.format(stage), f"stages.{stage}.train.learning_rate=1e-3", f"stages.{stage}.train.weight_decay=0.1"]
    trainer = trainer_of(stage_of(stage, *given, "stages.ppo.train.value_learning_rate=2e-3"))[0]
    names = {id(one): name for name, one in trainer.model.named_parameters()}
    seen = {}
    for group in trainer.create_optimizer().param_groups:
        for one in group["params"]:
            seen[names[id(one)]] = group["lr"], group["weight_decay"]
    assert seen.keys() == {name for name, one in trainer.model.named_parameters() if one.requires_grad}
    for name, (lr, decay) in seen.items():
        role = "value" if ".value" in name or name.startswith("value_head") else "default"
        assert lr == pytest.approx(rate[role] * (4 if "lora_B" in name else 1)), name
        assert decay == 0.1


def test_it_is_of_the_stages_that_say_it_and_1_says_nothing(built):
    own = {stage: row["fingerprint"] for stage, row in plan(built).items()}
    same = {stage: row["state"] for stage, row in plan(built, "--set", "adapter.loraplus_lr_ratio=1").items()}
    assert set(same.values()) == {"up to date"}
    one = plan(built, "--set", "stages.dpo.adapter.loraplus_lr_ratio=4")
    assert [stage for stage in one if one[stage]["fingerprint"] != own[stage]] == ["dpo"]
    every = plan(built, "--set", "adapter.loraplus_lr_ratio=4")
    assert {stage for stage in every if every[stage]["state"] == "up to date"} == {"pretrain"}


@pytest.mark.parametrize(
    ("adapter", "said"),
    [
        ("{method: ia3, loraplus_lr_ratio: 4}", "adapter.loraplus_lr_ratio: belongs to method lora, and this is ia3"),
        ("{method: full, loraplus_lr_ratio: 4}", "adapter.loraplus_lr_ratio: belongs to method lora; full tuning has"),
        ("{loraplus_lr_ratio: 0.5}", "adapter.loraplus_lr_ratio: must be at least 1, not 0.5"),
        ("{loraplus_lr_ratio: fast}", "adapter.loraplus_lr_ratio: must be a number"),
    ],
)
def test_where_it_cannot_work_it_is_refused(micro, adapter, said):
    assert said in refused(micro, "plan", "-r", "micro.yaml", "--set", f"adapter={adapter}")


def test_a_recipe_shows_it_where_it_takes_effect(read):
    text = "model: {id: m}\nstages: {sft: {data: {path: c}, adapter: {loraplus_lr_ratio: 4}}, dpo: {data: {path: c}}}"
    shown = read(text).resolved()["stages"]
    assert [shown[stage]["adapter"]["loraplus_lr_ratio"] for stage in ("sft", "dpo")] == [4.0, 1.0]
