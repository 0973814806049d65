"""PPO on the micro chain: four roles on one base, and what training does to each."""

import json
import shutil

import pytest
import torch
from conftest import align, attempt, manifest, write_micro
from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.ppo import roles
from pipeline.ppo.warnings import warnings
from pipeline.reward.adapter import HEAD_KEY, acting_as, add_reward, reward_scores

ADAPTER = "adapter/adapter_model.safetensors"


@pytest.fixture(scope="module")
def model(chain):
    """The SFT policy with all four roles on one base."""
    base = AutoModelForCausalLM.from_pretrained(attempt(chain, "pretrain") / "model", attn_implementation="eager")
    policy = PeftModel.from_pretrained(base, attempt(chain, "sft") / "adapter", is_trainable=True)
    return roles.add_roles(add_reward(policy, attempt(chain, "reward") / "adapter"))


@pytest.fixture(scope="module")
def rows(chain):
    """Prompts and responses, as token ids."""
    tokenizer = AutoTokenizer.from_pretrained(attempt(chain, "sft") / "adapter")
    asked = ["Which colour has bana?", "Which?", "Which colour has tumu or tele?"]
    said = [" red, it is", " blue", " green, I say"]
    return [tokenizer(text).input_ids for text in asked], [
        [*tokenizer(text).input_ids, tokenizer.eos_token_id] for text in said
    ]


def tensors(rows):
    from pipeline.ppo.rollout import padded

    return padded(*rows, 0)


def test_the_reference_is_the_parent_however_the_prompt_is_padded(chain, model, rows):
    alone = AutoPeftModelForCausalLM.from_pretrained(
        attempt(chain, "sft") / "adapter", attn_implementation="eager"
    ).eval()
    with torch.no_grad(), acting_as(model, roles.REFERENCE):
        found, _ = roles.response_log_probabilities(model, *tensors(rows), 1.0)
    for row, (prompt, response) in enumerate(zip(*rows, strict=True)):
        with torch.no_grad():
            logits = alone(input_ids=torch.tensor([prompt + response])).logits[0]
        logs = torch.log_softmax(logits, -1)[len(prompt) - 1 : -1]
        wanted = logs.gather(-1, torch.tensor(response)[:, None])[:, 0]
        assert torch.allclose(found[row, : len(response)], wanted, atol=1e-5)
        assert not found[row, len(response) :].any()


def test_the_reward_is_that_of_the_standalone_model(chain, model, rows):
    tokenizer = AutoTokenizer.from_pretrained(attempt(chain, "reward") / "adapter")
    alone = AutoPeftModelForSequenceClassification.from_pretrained(
        attempt(chain, "reward") / "adapter", num_labels=1, pad_token_id=tokenizer.pad_token_id
    ).eval()
    whole = [prompt + response for prompt, response in zip(*rows, strict=True)]
    found = reward_scores(model, whole, tokenizer.pad_token_id)
    with torch.no_grad():
        wanted = [float(alone(input_ids=torch.tensor([ids])).logits) for ids in whole]
    assert found.tolist() == pytest.approx(wanted, abs=1e-5)
    assert len({round(score, 4) for score in wanted}) == len(wanted)


def test_only_the_policy_and_the_value_are_trained(model):
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained
    assert all(".default" in name or roles.is_value(name) for name in trained)
    assert any(".default" in name for name in trained)
    assert {"value_head.weight"} < {name for name in trained if roles.is_value(name)}


def test_nothing_moves_before_the_first_step_and_what_is_frozen_never_moves(chain):
    first = json.loads((attempt(chain, "ppo") / "log.jsonl").read_text().splitlines()[0])
    assert first["objective/kl"] == 0
    assert first["val/ratio"] == 1
    assert first["policy/clipfrac_avg"] == 0
    assert manifest(chain, "ppo")["parents"].keys() == {"policy", "reward"}
    before, after = (load_file(attempt(chain, stage) / ADAPTER) for stage in ("sft", "ppo"))
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def run_ppo(chain, folder, *overrides, recipe=None) -> dict:
    """The policy that PPO trains with other settings, on the chain's parents."""
    write_micro(folder)
    for parent in ("pretrain", "sft", "reward"):
        shutil.copytree(
            chain / "runs/micro" / parent, folder / "runs/micro" / parent, symlinks=True, dirs_exist_ok=True
        )
    settings = [word for one in overrides for word in ("--set", one)]
    align("run", "ppo", "-r", "micro.yaml", *settings, cwd=folder)
    return load_file(attempt(folder, "ppo") / ADAPTER)


def checkpoint(folder) -> dict:
    """All that the last checkpoint holds of the value model."""
    last = max((attempt(folder, "ppo") / "checkpoints").glob("checkpoint-*"), key=lambda one: int(one.name[11:]))
    return {k: v for k, v in load_file(last / "ppo.safetensors").items() if k.startswith("value/")}


def test_accumulated_and_checkpointed_gradients_are_those_of_the_large_batch(chain, tmp_path):
    whole = load_file(attempt(chain, "ppo") / ADAPTER)
    found = run_ppo(
        chain,
        tmp_path,
        "stages.ppo.train.per_device_train_batch_size=2",
        "stages.ppo.train.gradient_accumulation_steps=2",
        "stages.ppo.train.gradient_checkpointing=true",
    )
    for name, tensor in whole.items():
        assert torch.allclose(tensor, found[name], atol=2e-4), name
    value, same = checkpoint(chain), checkpoint(tmp_path)
    assert all(torch.allclose(value[name], same[name], atol=2e-4) for name in value)
    start = load_file(attempt(chain, "reward") / ADAPTER)
    moved = [
        n
        for n in value
        if n.endswith("lora_B.value.weight") and not torch.equal(value[n], start[n[6:].replace(".value", "")])
    ]
    assert len(moved) == sum(n.endswith("lora_B.value.weight") for n in value)


def test_value_warm_up_leaves_the_policy_where_it_is(chain, tmp_path):
    found = run_ppo(chain, tmp_path, "stages.ppo.train.value_warmup_steps=12")
    parent = load_file(attempt(chain, "sft") / ADAPTER)
    assert all(torch.equal(parent[name], found[name]) for name in parent)
    head = load_file(attempt(chain, "reward") / ADAPTER)[HEAD_KEY]
    assert not torch.equal(checkpoint(tmp_path)["value/value_head.weight"], head)


def test_a_reward_function_stands_alone_and_gets_the_other_columns(chain, tmp_path):
    (tmp_path / "mine.py").write_text(
        "def right(prompts, completions, completion, **others):\n"
        "    assert not others and len(prompts) == len(completions)\n"
        "    return [float(said.split(',')[0] == wanted.split(',')[0]) for said, wanted in zip(completions, completion)]\n"
    )
    run_ppo(chain, tmp_path, "stages.ppo.reward_function=mine.py:right")
    said = manifest(tmp_path, "ppo")
    assert said["parents"].keys() == {"policy"}
    assert 0 <= said["metrics"]["before"]["mean_reward"] <= 1
    assert said["inputs"]["reward_function"]["name"] == "right"


def test_a_reward_function_that_gives_too_few_numbers_is_refused(chain, tmp_path):
    (tmp_path / "mine.py").write_text("def short(prompts, completions, **columns):\n    return [1.0]\n")
    write_micro(tmp_path)
    shutil.copytree(chain / "runs", tmp_path / "runs", symlinks=True)
    said = align(
        "run", "ppo", "-r", "micro.yaml", "--set", "stages.ppo.reward_function=mine.py:short", cwd=tmp_path, check=False
    )
    assert said.returncode == 2
    assert "1 scores for" in said.stdout
    assert "Traceback" not in said.stdout


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("stages.ppo.reward=sft", "sft trains a policy, not a reward model"),
        ("stages.ppo.reward=nowhere", "nowhere is neither a stage of this recipe nor a folder"),
        ("stages.sft.reward=reward", "sft takes no reward"),
        ("stages.ppo.train.kl_coeff=0.1", "did you mean kl_coef?"),
        ("stages.ppo.train.response_length=60", "leave no room for a prompt"),
    ],
)
def test_mistakes(chain, tmp_path, override, words):
    write_micro(tmp_path)
    shutil.copytree(chain / "runs", tmp_path / "runs", symlinks=True)
    said = align("run", "ppo", "-r", "micro.yaml", "--set", override, cwd=tmp_path, check=False)
    assert said.returncode == 2
    assert words in " ".join(said.stdout.split())


def test_a_reward_model_on_another_base_is_refused(chain, tmp_path):
    write_micro(tmp_path)
    reward = attempt(chain, "reward")
    align("run", "sft", "-r", "micro.yaml", "--set", "seed=1", cwd=tmp_path)
    said = align(
        "run",
        "ppo",
        "-r",
        "micro.yaml",
        "--set",
        "seed=1",
        "--set",
        f"stages.ppo.reward={reward}",
        cwd=tmp_path,
        check=False,
    )
    assert said.returncode == 2
    assert "stands on another base" in said.stdout


GOOD = {
    "objective/kl": 1.0,
    "objective/entropy": 1.0,
    "objective/scores": 0.0,
    "val/eos_rate": 1.0,
    "val/explained_variance": 0.5,
}


@pytest.mark.parametrize(
    ("changes", "trouble"),
    [
        ([{}] * 9, set()),
        ([{}, {"objective/kl": 30.0}], {"kl"}),
        ([{}] * 3 + [{"objective/entropy": 0.05}], {"entropy"}),
        ([{"val/eos_rate": 0.0}] * 2, {"eos"}),
        ([{}] * 6 + [{"val/explained_variance": -0.1}] * 3, {"value"}),
        (
            [{"held_out/score": 0.9, "held_out/reward": 0.0}, {"held_out/score": 0.8, "held_out/reward": 2.0}],
            {"over-optimization"},
        ),
        ([{"held_out/score": 0.9, "held_out/reward": 0.0}, {"held_out/score": 0.9, "held_out/reward": 2.0}], set()),
    ],
)
def test_it_warns_of_what_goes_wrong(changes, trouble):
    assert warnings([GOOD | change for change in changes], kl_limit=10, longest=64).keys() == trouble


def test_the_missing_eos_penalty_is_for_those_that_were_cut():
    from pipeline.ppo.arithmetic import RunningScale
    from pipeline.ppo.config import PPOConfig
    from pipeline.ppo.experience import shaped

    args = PPOConfig(reward_clip=2.0, missing_eos_penalty=1.5, use_cpu=True)
    found = shaped(torch.tensor([5.0, 1.0]), torch.tensor([1.0, 0.0]), args, RunningScale())
    assert found.tolist() == [2.0, -0.5]
