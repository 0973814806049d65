"""Each stage consumes the checkpoint of the stage before it, and what it leaves loads in plain libraries."""

import math
from pathlib import Path

import pytest
import torch
from conftest import adapter_of, align, attempt, manifest, stage_run, trainer_of, write_micro, write_rows
from safetensors.torch import load_file

from pipeline.data.tokens.encoder import IGNORED
from pipeline.errors import PipelineError
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


def test_rows_are_accounted_for(chain):
    for stage in ("pretrain", "sft", "reward", "dpo"):
        rows = manifest(chain, stage)["data"]["rows"]
        assert rows["read"] == rows["trained"] + rows["held_out"] + rows["dropped"] > 0


def test_metrics_state_their_n_and_the_manifest_says_what_ran(chain):
    for stage in ("pretrain", "sft", "reward", "dpo"):
        said = manifest(chain, stage)
        assert said["metrics"]["before"]["n"] == said["metrics"]["after"]["n"] > 0
        assert said["run"]["backend"] == "transformers" and said["versions"]["trl"]
    assert manifest(chain, "dpo")["metrics"]["before"]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert {"exact_match", "nearest_question"} <= set(manifest(chain, "sft")["metrics"]["after"])


@pytest.mark.parametrize("name", ["sft", "reward", "dpo"])
def test_held_out_figures_in_between_are_those_of_the_report_and_change_nothing(stage_of, chain, name, tmp_path):
    import json

    said = []
    often = f"stages.{name}.train={{eval_strategy: steps, eval_steps: 4}}"
    stage = stage_of(name, often, report=lambda kind, **fields: said.append((kind, fields)))
    trainer, _ = trainer_of(stage)
    before = stage.measuring.before(trainer.model)
    trainer.train()
    after = stage.measuring.evaluation.run(trainer.model, before).metrics
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    found = [{key: value for key, value in line.items() if key.startswith("eval_")} for line in lines]
    found = [one for one in found if one]
    assert found[-1] == {f"eval_{key}": value for key, value in after.items()} and len(found) == 3
    assert [fields["step"] for kind, fields in said if kind == "evaluated"] == [4, 8, 12]
    assert after == manifest(chain, name)["metrics"]["after"]
    weights = {n.replace(".default", ""): p for n, p in trainer.model.named_parameters()}
    assert all(torch.equal(weights[n], tensor) for n, tensor in adapter_of(chain, name).items() if n in weights)


def test_the_last_step_has_a_line_in_the_log_however_many_logging_steps_there_are(stage_of, tmp_path):
    trainer, _ = trainer_of(stage_of("sft", "stages.sft.train.logging_steps=100"))
    trainer.train()
    assert [line["step"] for line in trainer.state.log_history if "loss" in line] == [12]


def test_evaluating_without_held_out_rows_is_said_and_left_out(tmp_path):
    write_micro(tmp_path)
    said = align(
        *("run", "pretrain", "-r", "micro.yaml", "--set", "stages.pretrain.data.held_out=0"),
        *("--set", "train.eval_strategy=steps", "--set", "train.max_steps=2"),
        cwd=tmp_path,
    ).stdout
    assert "eval_strategy has nothing to do: no row is held out" in said and "trained to step 2" in said


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
        assert torch.equal(stage.models.at_the_start().eval()(**batch).logits, plain(**batch).logits)
        trainer, pairs = trainer_of(stage)
        assert float(trainer.compute_loss(trainer.model, trainer.data_collator(pairs[:2]))) == pytest.approx(
            math.log(2), abs=1e-6
        )
    AutoPeftModelForSequenceClassification.from_pretrained(
        runs / "reward" / "latest" / "adapter", num_labels=1, pad_token_id=tokenizer.pad_token_id
    )


@pytest.mark.slow
def test_a_4_bit_base_in_bf16_trains_adapters_that_stay_fp32(tmp_path, shared):
    chatml_recipe(tmp_path, shared)
    align("run", "-r", "chatml.yaml", "--set", "model.load_in_4bit=true", "--set", "model.dtype=bfloat16", cwd=tmp_path)
    for stage in ("sft", "dpo", "reward"):
        adapter = load_file(tmp_path / "runs" / "chatml" / stage / "latest" / "adapter" / "adapter_model.safetensors")
        assert {tensor.dtype for tensor in adapter.values()} == {torch.float32}


def test_a_pattern_that_finds_no_answer_at_all_is_a_mistake_and_no_full_score(stage_of):
    stage = stage_of("sft", "evaluation.answer_pattern=<nowhere>(.*)")
    with pytest.raises(PipelineError, match="finds no answer in any of the 8 held-out rows"):
        stage.measuring.evaluation.run(stage.models.at_the_start())


@pytest.mark.parametrize("own", ["{target_modules: [q_proj, q_porj]}", "{rank_pattern: {nowhere: 3}}"])
def test_a_name_of_no_module_is_a_mistake(stage_of, own):
    stage = stage_of("sft", f"adapter={own}")
    with pytest.raises(PipelineError, match=r"adapter\.(target_modules: q_porj|rank_pattern: nowhere) is no module"):
        stage.models.at_the_start()
