"""All that is wrong in a recipe is told at once, each mistake at its line and with the nearest right word."""

import pytest

from pipeline.recipe.problem import RecipeError
from pipeline.recipe.reading import load_recipe
from recipes import GOOD, with_sft, with_train


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("path: a", "data.path: is of one stage's rows; put it under stages.<stage>.data"),
        ("mixture: []", "data.mixture: is of one stage's rows; put it under stages.<stage>.data"),
        ("columns: {}", "data.columns: is of one stage's rows; put it under stages.<stage>.data"),
        ("streaming: true", "data.streaming: is of one stage's rows; put it under stages.<stage>.data"),
        ("dataset: a", "data.dataset: is of one stage's rows; put it under stages.<stage>.data as path"),
        ("held_out: a.jsonl", "data.held_out: must be a share of the rows from 0 to below 1; a file is given to one"),
        ("max_rows: 0", "data.max_rows: must be greater than or equal to 1"),
        ("on_bad_row: skip", "data.on_bad_row: must be one of error, drop"),
        ("val_size: 0.1", "data.val_size: unknown key; did you mean held_out?"),
        ("duplicate: drop", "data.duplicate: unknown key; did you mean duplicates?"),
    ],
)
def test_what_cannot_be_said_of_every_stages_rows(problems, key, said):
    (problem,) = problems(with_sft(f"data: {{{key}}}"))
    assert problem.startswith(f"my.yaml:3: {said}")


def test_all_mistakes_are_told_at_once_each_at_its_line(problems):
    assert problems("""\
        model: {id: some/model, dtype: bf16}
        train:
          cutoff_len: 512
          bf16: true
        stages:
          sft:
            data: {path: chat.jsonl, held_out: 2}
            learning_rate: 1
          dpo:
            policy: reward
            data: {paht: pairs.jsonl}
            train:
              betaa: 0.1
              learning_rate: "2e-4"
        """) == [
        'my.yaml:1: model.dtype: must be one of float32, bfloat16, float16, not "bf16"; did you mean bfloat16?',
        "my.yaml:3: train.cutoff_len: unknown key; did you mean max_length?",
        "my.yaml:4: train.bf16: is not set here; set model.dtype (float32, bfloat16 or float16) instead",
        "my.yaml:7: stages.sft.data.held_out: must be a share of the rows from 0 to below 1, or a file, not 2",
        "my.yaml:8: stages.sft.learning_rate: unknown key; did you mean stages.sft.train.learning_rate?",
        "my.yaml:10: stages.dpo.policy: reward trains a reward model, and a reward model is never a policy",
        "my.yaml:11: stages.dpo.data.paht: unknown key; did you mean path?",
        "my.yaml:11: stages.dpo.data.path: is missing",
        "my.yaml:13: stages.dpo.train.betaa: unknown key; did you mean beta?",
        'my.yaml:14: stages.dpo.train.learning_rate: must be a number, not "2e-4"; leave out the quotes',
    ]


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("sequence_len: 1", "max_length"),
        ("micro_batch_size: 1", "per_device_train_batch_size"),
        ("num_epochs: 1", "num_train_epochs"),
        ("pref_beta: 1", "stages.dpo.train.beta"),
        ("lora_r: 1", "adapter.r"),
        ("val_set_size: 1", "stages.sft.data.held_out"),
        ("base_model: m", "model.id"),
        ("finetuning_type: lora", "adapter.method"),
        ("evaluation_strategy: epoch", "eval_strategy"),
        ("quantization_bit: 4", "model.load_in_4bit"),
        ("quantization_bit: 8", "model.load_in_8bit"),
        ("eval_batch_size: 4", "evaluation.batch_size"),
        ("dtype: float32", "model.dtype"),
        ("lerning_rate: 1", "learning_rate"),
    ],
)
def test_an_unknown_key_is_told_the_nearest_or_its_place(problems, key, meant):
    (problem,) = problems(with_train(key))
    name = key.partition(":")[0]
    assert problem.startswith(f"my.yaml:3: stages.sft.train.{name}: unknown key; did you mean {meant}")


def test_a_key_that_not_every_stage_has_is_sent_to_those_that_have_it(problems):
    assert problems(GOOD.replace("learning_rate: 2e-4", "beta: 0.1")) == [
        "my.yaml:3: train.beta: sft has no such field; put it under stages.dpo.train",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "my.yaml:1: the recipe is empty; it needs at least model and stages"),
        ("- a\n", 'my.yaml:1: must be a mapping of keys such as model and stages, not ["a"]'),
        ("model: {id: m}\n", "my.yaml:1: stages: is missing"),
        (
            "model: {id: m}\nstages:\n",
            "my.yaml:2: stages: needs at least one stage: pretrain, sft",
        ),
        (with_sft("name: ../up"), "my.yaml:3: name: must be a folder's name of the letters a to z"),
        (
            with_sft("model: 3").replace("model: {id: some/model}\n", "\n"),
            "my.yaml:3: model: must be a mapping",
        ),
        (with_sft("threads: 0"), "my.yaml:3: threads: must be greater than or equal to 1"),
        (with_sft('seed: "1"'), 'my.yaml:3: seed: must be a whole number, not "1"; leave out the quotes'),
        (
            with_sft('evaluation: {answer_pattern: "("}'),
            "my.yaml:3: evaluation.answer_pattern: is not a regular",
        ),
        (
            with_sft("evaluation: {score_function: f.py}"),
            "my.yaml:3: evaluation.score_function: must be a funct",
        ),
    ],
)
def test_what_is_wrong_is_said_once(problems, text, said):
    (problem,) = problems(text)
    assert problem.startswith(said)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("{}", "model: needs id (a hub id or a local folder), or config"),
        ("{id: a, config: {model_type: llama}, tokenizer: {vocab_size: 999}}", "model.config: stands beside"),
        ("{config: {model_type: llama}}", "model.tokenizer: is missing"),
        ("{config: {}, tokenizer: {vocab_size: 999}}", "model.config.model_type: is missing"),
        ("{config: {model_type: llama}, tokenizer: {}}", "model.tokenizer: needs either vocab_size"),
        ("{id: a, tokenizer: {vocab_size: 999}}", "model.tokenizer: is for a model from scratch"),
        ("{id: a, load_in_4bit: true}", "adapter.method: full tuning cannot train a base in 4 bits"),
    ],
)
def test_a_model_is_one_that_exists_or_one_from_scratch(problems, model, said):
    adapter = "adapter: {method: full}\n" if "4bit" in model else ""
    (problem,) = problems(f"{adapter}model: {model}\nstages: {{sft: {{data: {{path: c}}}}}}\n")
    assert said in problem


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("[sft]", 'stages.dpo.policy: must be text, not ["sft"]'),
        ("dpo", "a stage cannot start from itself"),
        ("reward", "a reward model is never a policy"),
        ("stf", "stf is neither a stage of this recipe nor a folder; did you mean sft?"),
        ("pretrain", "pretrain is neither a stage of this recipe nor a folder"),
    ],
)
def test_a_policy_that_is_none(problems, policy, said):
    (problem,) = problems(GOOD, f"stages.dpo.policy={policy}")
    assert said in problem


def test_policies_that_go_round_in_a_circle(problems):
    (problem,) = problems(GOOD, "stages.sft.policy=dpo")
    assert "stages.sft.policy: goes round in a circle: sft starts from dpo, which starts from sft" in problem


def test_a_wrong_override_is_named_as_it_was_written(problems):
    assert set(problems(GOOD, "stages.dpo.train.betaa=1", "seed", "threads=0")) == {
        "--set stages.dpo.train.betaa=1: stages.dpo.train.betaa: unknown key; did you mean beta?",
        "--set seed: must look like stages.dpo.train.beta=0.05",
        "--set threads=0: threads: must be greater than or equal to 1",
    }


def test_an_override_cannot_go_below_a_plain_value(problems):
    (problem,) = problems(GOOD, "model.id.more=1")
    assert problem == "--set model.id.more=1: model.id.more: model.id is not a mapping, so it has no more"


def test_an_unknown_stage_is_told_the_nearest(problems):
    (problem,) = problems("model: {id: m}\nstages: {sfft: {}}\n")
    assert problem.startswith("my.yaml:2: stages.sfft: unknown stage; did you mean sft? (there are pretrain, ")


def test_a_missing_recipe_lists_those_there_are(read):
    read(GOOD)
    with pytest.raises(RecipeError, match=r"mi\.yaml: no such recipe; did you mean my\.yaml\?\nThere are: my\.yaml"):
        load_recipe("mi.yaml")


def test_what_is_learned_is_chosen_in_conversations_alone(problems):
    (problem,) = problems(GOOD, "stages.dpo.data.learn=last")
    assert "stages.dpo.data.learn: cannot take effect" in problem


def test_a_run_has_at_least_one_step(problems):
    (problem,) = problems(GOOD, "stages.sft.train.max_steps=0")
    assert "max_steps: must be at least 1, or -1" in problem


def test_eval_steps_without_a_strategy_cannot_take_effect(problems, read):
    (problem,) = problems(GOOD, "stages.sft.train.eval_steps=5")
    assert "stages.sft.train.eval_steps: cannot take effect" in problem
    (problem,) = problems(GOOD, "train.eval_steps=5")
    assert "train.eval_steps: cannot take effect" in problem
    assert read(GOOD, "train.eval_steps=5", "stages.dpo.train.eval_strategy=steps")
