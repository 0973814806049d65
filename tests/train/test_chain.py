"""Each stage consumes the checkpoint of the stage before it, and what it leaves loads in plain libraries."""

import math

import pytest
import torch
from conftest import align, attempt, manifest
from safetensors.torch import load_file
from stage_runs import adapter_of, trainer_of

from pipeline.data.tokens.encoder import IGNORED
from pipeline.evaluate.forward import log_probabilities


def test_dpo_starts_at_ln_2_with_the_sft_adapter_as_reference(stage_of, chain):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    trainer, rows = trainer_of(stage_of("dpo", "stages.dpo.train.precompute_ref_log_probs=false"))
    batch = trainer.data_collator(rows[:4])
    with torch.no_grad():
        assert abs(float(trainer.compute_loss(trainer.model, batch)) - math.log(2)) < 1e-6
    base = AutoModelForCausalLM.from_pretrained(attempt(chain, "pretrain") / "model")
    parent = PeftModel.from_pretrained(base, attempt(chain, "sft") / "adapter")
    sequences = [
        (row["prompt_ids"] + row["chosen_ids"], [IGNORED] * len(row["prompt_ids"]) + row["chosen_ids"])
        for row in rows[:4]
    ]
    trainer.model.set_adapter("ref")
    with torch.no_grad():
        expected, _ = log_probabilities(parent.eval(), sequences, 3)
        found, _ = log_probabilities(trainer.model.eval(), sequences, 3)
    assert found == pytest.approx(expected, abs=1e-6)


def test_processes_that_load_the_libraries_themselves_leave_the_same(chain, micro):
    """As a user runs it: the chain of the tests is made by copies of a process that has loaded them (see copies.py). That
    the other stages go on to the same weights after a real process was killed stands in test_resume.py.
    """
    said = align("run", "sft", "-r", "micro.yaml", cwd=micro, alone=True).stdout
    assert "What was learned" in said and "12/12" in said
    for stage in ("pretrain", "sft"):
        for what in ("weights_sha256", "metrics", "tokens", "data"):
            assert manifest(micro, stage)[what] == manifest(chain, stage)[what]


def test_the_reference_is_frozen_and_the_policy_is_not(stage_of):
    trainer, _ = trainer_of(stage_of("dpo", "stages.dpo.train.precompute_ref_log_probs=false"))
    reference = {name: p.clone() for name, p in trainer.model.named_parameters() if ".ref." in name}
    policy = {name: p.clone() for name, p in trainer.model.named_parameters() if ".default." in name}
    trainer.train()
    now = dict(trainer.model.named_parameters())
    assert reference and all(torch.equal(now[name], tensor) for name, tensor in reference.items())
    assert any(not torch.equal(now[name], tensor) for name, tensor in policy.items())


def test_the_base_is_untouched_and_every_stage_moves_its_adapter(chain):
    sft, dpo, reward = (adapter_of(chain, stage) for stage in ("sft", "dpo", "reward"))
    assert set(sft) == set(dpo) == set(reward) - {"base_model.model.score.weight"}
    for child in (dpo, reward):
        assert any(not torch.equal(sft[name], child[name]) for name in sft)
    for stage in ("sft", "dpo", "reward"):
        assert manifest(chain, stage)["base"]["identity"] == {"sha256": manifest(chain, "pretrain")["weights_sha256"]}
    assert manifest(chain, "dpo")["parents"]["policy"]["sha256"] == manifest(chain, "sft")["weights_sha256"]


def test_a_policy_loads_in_three_lines_of_plain_peft(chain, stage_of):
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    folder = attempt(chain, "dpo") / "adapter"
    model = AutoPeftModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    asked = [[{"role": "user", "content": text}] for text in ("Which colour has bana?", "And?")]
    batch = tokenizer.apply_chat_template(
        asked, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    answers = model.generate(**batch, max_new_tokens=4, eos_token_id=tokenizer.eos_token_id)
    assert answers.shape[0] == 2
    stage = stage_of("dpo", f"stages.dpo.policy={folder.parent}")
    ours = stage.models.at_the_start().eval()
    with torch.no_grad():
        assert torch.equal(ours(**batch).logits, model(**batch).logits)


def test_a_reward_model_loads_with_its_head_and_scores_a_batch_as_one_by_one(chain):
    from peft import AutoPeftModelForSequenceClassification
    from transformers import AutoTokenizer

    folder = attempt(chain, "reward") / "adapter"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoPeftModelForSequenceClassification.from_pretrained(
        folder, num_labels=1, pad_token_id=tokenizer.pad_token_id
    ).eval()
    head = load_file(folder / "adapter_model.safetensors")["base_model.model.score.weight"]
    assert torch.equal(model.base_model.model.score.modules_to_save["default"].weight, head)
    texts = [
        [{"role": "user", "content": "Which colour has bana?"}, {"role": "assistant", "content": answer}]
        for answer in ("red, it is", "red")
    ]
    with torch.no_grad():
        batch = tokenizer.apply_chat_template(texts, padding=True, return_tensors="pt", return_dict=True)
        together = model(**batch).logits.squeeze(-1)
        alone = [
            model(**tokenizer.apply_chat_template([t], return_tensors="pt", return_dict=True)).logits.item()
            for t in texts
        ]
    assert together.tolist() == pytest.approx(alone, abs=1e-5)


def test_the_last_step_has_a_line_in_the_log_however_many_logging_steps_there_are(stage_of, tmp_path):
    trainer, _ = trainer_of(stage_of("sft", "stages.sft.train.logging_steps=100"))
    trainer.train()
    assert [line["step"] for line in trainer.state.log_history if "loss" in line] == [12]
