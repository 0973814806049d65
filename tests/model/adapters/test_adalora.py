"""AdaLoRA: ranks move as PEFT moves them, a run that was stopped goes on, and a plain LoRA of the ranks found is left."""

import copy

import pytest
import small_models
import torch
from conftest import attempt
from peft import AdaLoraConfig, get_peft_model
from stage_runs import trainer_of
from transformers import AutoModelForCausalLM

from pipeline.errors import PipelineError
from pipeline.model.adapters import METHODS, method_on
from pipeline.model.base import Base
from pipeline.model.loader import Loader
from pipeline.model.tokenizer import Prepared
from pipeline.plan.planner import Planner
from pipeline.recipe.reading import load_recipe
from pipeline.recipe.sections import Model

IDS = torch.arange(3, 27).reshape(2, 12)
METHOD = METHODS["adalora"]
FIELDS = {"target_modules": "all-linear", "init_r": 6, "target_r": 2, "tinit": 2, "tfinal": 3, "lora_alpha": 12}
STEPS = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_models.base(tmp_path_factory.mktemp("base") / "llama", "llama")


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model.eval()(input_ids=IDS).logits


def trained(model, stepped, penalty=None, steps: range = range(1, STEPS + 1)):
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=0.02)
    for step in steps:
        optimizer.zero_grad()
        model.train()(input_ids=IDS, labels=IDS).loss.backward()
        if penalty:
            penalty().backward()
        optimizer.step()
        stepped(step)
    return model


def ours(folder):
    torch.manual_seed(1)
    model = METHOD.put_on(AutoModelForCausalLM.from_pretrained(folder), METHOD.settings(FIELDS, task_type="CAUSAL_LM"))
    return model, METHOD.alongside(model, STEPS)


def test_ranks_move_as_pefts_own_loop_moves_them_and_a_plain_lora_is_left(folder):
    base = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(1)
    theirs = get_peft_model(base, AdaLoraConfig(**FIELDS, total_step=STEPS, task_type="CAUSAL_LM"))
    trained(theirs, theirs.base_model.update_and_allocate)
    model, allocation = ours(folder)
    trained(model, allocation.stepped, allocation.penalty)
    assert torch.allclose(logits(model), logits(theirs), atol=1e-4)
    pattern = theirs.peft_config["default"].rank_pattern
    expected = {name.partition(".lora_E")[0].removeprefix("model."): sum(left) for name, left in pattern.items()}
    before, bare = logits(model), AutoModelForCausalLM.from_pretrained(folder)
    assert not torch.allclose(before, logits(bare), atol=0.05)
    plain = METHOD.finished(model)
    assert torch.allclose(logits(plain), before, atol=1e-4)
    config = plain.peft_config["default"]
    found = {name.removeprefix("model."): rank for name, rank in config.rank_pattern.items()}
    assert found == {name: max(rank, 1) for name, rank in expected.items()}
    assert sum(expected.values()) <= 2 * len(expected) and len(set(expected.values())) > 1
    assert method_on(plain) is METHODS["lora"]
    with plain.disable_adapter():
        assert torch.equal(logits(plain), logits(bare))


def test_what_is_kept_of_it_is_all_that_it_needs(folder):
    model, allocation = ours(folder)
    trained(model, allocation.stepped, allocation.penalty, range(1, 6))
    copied, kept = copy.deepcopy(model.state_dict()), {name: one.clone() for name, one in allocation.kept().items()}
    trained(model, allocation.stepped, allocation.penalty, range(6, STEPS + 1))
    other, again = ours(folder)
    other.load_state_dict(copied)
    again.put(kept)
    trained(other, again.stepped, again.penalty, range(6, STEPS + 1))
    assert torch.equal(logits(other), logits(model))


def test_a_score_head_is_in_what_is_left(folder):
    loader = Loader(Model(id=str(folder)), 0, Base(None, str(folder)), Prepared(small_models.tokenizer()), "score")
    model = loader.model(None, {"method": "adalora", "target_modules": "all-linear"})
    with torch.no_grad():
        for one in model.parameters():
            one.add_(0.1) if one.requires_grad else one
    found = logits(model)
    assert torch.allclose(logits(METHOD.finished(model)), found, atol=1e-4)


def test_the_penalty_counts_once_a_step_however_a_batch_is_cut(stage_of, built):
    """From a base of its own, with a penalty that is most of the gradient."""
    base = f"stages.dpo.policy={attempt(built, 'pretrain') / 'model'}"
    found = []
    for size in (4, 2):
        options = [
            f"stages.dpo.train.{key}" for key in (f"per_device_train_batch_size={size}", "max_steps=4", "save_steps=9")
        ]
        cut = f"stages.dpo.train.gradient_accumulation_steps={4 // size}"
        own = "stages.dpo.adapter={method: adalora, orth_reg_weight: 50}"
        trainer = trainer_of(stage_of("dpo", base, own, cut, *options, "stages.dpo.train.optim=sgd"))[0]
        assert "ref" not in trainer.model.peft_config
        trainer.train()
        found.append({name: one.detach() for name, one in trainer.model.named_parameters() if one.requires_grad})
    assert all(torch.allclose(one, found[1][name], atol=1e-5) for name, one in found[0].items())


def test_too_few_steps_are_told_by_the_plan(micro, monkeypatch):
    monkeypatch.chdir(micro)
    recipe = load_recipe("micro.yaml", ["stages.sft.adapter={method: adalora, tinit: 6, tfinal: 6}"])
    assert METHOD.too_short({"tinit": 0, "tfinal": 0}, 1) and METHOD.too_short({"tfinal": 1}, 2)
    assert not METHOD.too_short({}, 2)
    with pytest.raises(PipelineError, match=r"sft: adapter.tinit and adapter.tfinal are 6 and 6 of 12 steps"):
        Planner(recipe, micro / "runs").plan(["sft"])


def test_too_few_steps_are_told_where_the_rows_make_them(stage_of):
    with pytest.raises(PipelineError, match=r"sft: adapter.tinit and adapter.tfinal are 30 and 6 of 36 steps"):
        trainer_of(stage_of("sft", "adapter={method: adalora, tinit: 30, tfinal: 6}", "stages.sft.train.max_steps=-1"))


def test_stages_after_it_go_on_with_a_plain_one(read, problems):
    text = "model: {id: m}\nadapter: {method: adalora, target_r: 4}\nstages: {sft: {data: {path: c}}, dpo: {data: {path: c}}}"
    shown = read(text).resolved()["stages"]
    assert [shown[stage]["adapter"]["method"] for stage in ("sft", "dpo")] == ["adalora", "lora"]
    assert shown["dpo"]["adapter"]["r"] == 4
    said = "adapter.method: cannot take effect: the adapter of sft goes on here, whose method is"
    assert any(said in one for one in problems(text, "stages.dpo.adapter={method: adalora}"))
