"""A key that would do nothing is refused with the reason, where that can be known from the recipe."""

import json

import pytest

from pipeline.recipe.fields import fields_of
from pipeline.recipe.problem import RecipeError
from pipeline.recipe.reading import load_recipe

RECIPE = """\
model: {id: m}
stages:
  sft: {data: {path: chat.jsonl}}
  reward: {data: {path: pairs.jsonl}}
  dpo: {data: {path: pairs.jsonl}}
  ppo: {data: {path: prompts.jsonl}}
  kto: {data: {path: labeled.jsonl}}
  simpo: {data: {path: pairs.jsonl}}
  grpo: {data: {path: prompts.jsonl}}
"""


@pytest.fixture
def problems(tmp_path):
    """What is wrong with the recipe and some options, without where."""

    def problems(*options: str, text: str = RECIPE) -> list[str]:
        (tmp_path / "my.yaml").write_text(text)
        try:
            load_recipe(tmp_path / "my.yaml", options)
        except RecipeError as error:
            return [problem.partition(": ")[2] for problem in error.problems]
        return []

    return problems


@pytest.mark.parametrize(
    ("stage", "train", "said"),
    [
        (
            "dpo",
            "label_smoothing: 0.1",
            "cannot take effect with loss_type: sigmoid; it does with robust, exo_pair, aot",
        ),
        ("dpo", "label_smoothing: 0.1, loss_type: [hinge, sft]", 'with loss_type: ["hinge", "sft"]'),
        ("dpo", "discopop_tau: 0.1", "with loss_type: sigmoid; it does with discopop"),
        ("dpo", "f_alpha_divergence_coef: 0.9", "with f_divergence_type: reverse_kl; it does with alpha_divergence"),
        ("dpo", "f_divergence_type: forward_kl, loss_type: aot", "it does with nothing but sigmoid, sigmoid_norm"),
        ("dpo", "beta: 0.2, loss_type: sft", "with loss_type: sft; it does with a loss of pairs"),
        ("dpo", "loss_weights: [0.5]", "with loss_type: sigmoid; it does with several losses"),
        ("dpo", "loss_weights: [0.5], loss_type: [sigmoid, sft]", "must be one for each of sigmoid, sft, not [0.5]"),
        ("dpo", "loss_weights: [0, 0], loss_type: [sigmoid, sft]", "must not all be 0: nothing would be trained"),
        ("dpo", "loss_type: exo_pair", "exo_pair needs label_smoothing above 0"),
        ("dpo", "loss_type: []", "must name at least one loss"),
        ("dpo", "use_weighting: true, loss_type: aot", "with loss_type: aot; it does with any other"),
        ("dpo", "label_smoothing_factor: 0.1", "its losses are smoothed by label_smoothing"),
        ("reward", "label_smoothing_factor: 0.1", "its loss has no labels to smooth"),
        ("sft", "label_smoothing_factor: 0.1, loss_type: dft", "with loss_type: dft; it does with nll"),
        ("sft", "packing: true, max_length: null", "with max_length: null; it does with a number"),
        ("sft", "warmup_steps: 5, lr_scheduler_type: constant", "it does with constant_with_warmup and others"),
        ("sft", "lr_scheduler_kwargs: {a: 1}, lr_scheduler_type: constant", "with lr_scheduler_type: constant"),
        (
            "sft",
            "lr_scheduler_kwargs: {min_lr: 1e-5}",
            "lr_scheduler_kwargs: linear takes none, and not min_lr; it goes with cosine_with_min_lr",
        ),
        (
            "sft",
            "lr_scheduler_type: cosine, lr_scheduler_kwargs: {num_cycles: 1, power: 2}",
            "cosine takes num_cycles, and not power; it goes with polynomial",
        ),
        (
            "sft",
            "lr_scheduler_type: cosine_with_min_lr",
            "cosine_with_min_lr needs lr_scheduler_kwargs: {min_lr: ...}, or {min_lr_rate: 0.1}",
        ),
        (
            "grpo",
            "num_generations: 3, per_device_train_batch_size: 4",
            "num_generations: must go into per_device_train_batch_size * gradient_accumulation_steps, 4 * 1, without a rest",
        ),
        (
            "grpo",
            "num_generations: 3, steps_per_generation: 2",
            "per_device_train_batch_size * steps_per_generation, 8 * 2",
        ),
        (
            "grpo",
            "num_generations: 3, generation_batch_size: 8",
            "generation_batch_size, 8, without a rest: 3 does not",
        ),
        ("grpo", "generation_batch_size: 12", "must be a multiple of per_device_train_batch_size, 8, not 12"),
        ("grpo", "generation_batch_size: 8, steps_per_generation: 1", "leave one of them out"),
        ("sft", "optim: sgd, adam_beta1: 0.5", "with optim: sgd; it does with an Adam or a Lion"),
        ("sft", "optim: lion_8bit, adam_epsilon: 0.5", "with optim: lion_8bit; it does with an Adam"),
        (
            "sft",
            "optim: sgd, optim_args: 'momentum=0.9,foo=1'",
            "sgd reads momentum, dampening, nesterov, and not foo=1",
        ),
        ("sft", "optim: sgd, optim_args: weight_decay=0.1", "and not weight_decay=0.1; set train.weight_decay"),
        ("sft", "optim: sgd, optim_args: momentum", "must look like name=value,name=value; momentum does not"),
        (
            "sft",
            "optim_args: 'betas=(0.1,0.2)'",
            "reads none, and not betas=(0.1,0.2); set train.adam_beta1 and adam_beta2",
        ),
        ("sft", "optim: stable_adamw, optim_args: kahan_sum=false", "reads max_lr, kahan_sum=true, decouple_lr=true"),
        ("sft", "save_strategy: epoch, save_steps: 5", "with save_strategy: epoch; it does with steps"),
        ("sft", "eval_strategy: epoch, eval_steps: 5", "with eval_strategy: epoch; it does with steps"),
        ("sft", "eval_delay: 5", "with eval_strategy: no; it does with steps, epoch"),
        ("sft", "logging_strategy: epoch, logging_steps: 5", "with logging_strategy: epoch; it does with steps"),
        ("sft", "run_name: x", "with report_to: none; it does with the name of a tracker other than tensorboard"),
        ("sft", "project: x, report_to: tensorboard", "with report_to: tensorboard; it does with wandb, trackio"),
        ("sft", "dataloader_prefetch_factor: 2", "with dataloader_num_workers: 0; it does with 1 or more"),
        ("sft", "dataloader_persistent_workers: true, dataloader_num_workers: 0", "it does with 1 or more"),
        ("ppo", "train_sampling_strategy: sequential", "its prompts come in an order drawn from the seed"),
        ("ppo", "dataloader_num_workers: 2", "its rows are made while it trains"),
        ("ppo", "neftune_noise_alpha: 5", "noise would make its log-probabilities inexact"),
        ("ppo", "kl_horizon: 5", "with kl_target: null; it does with a number"),
        ("kto", "neftune_noise_alpha: 5", "noise would make the policy another one than its reference"),
        ("kto", "beta: 0", "must be more than 0 (at 0 nothing is trained"),
        (
            "simpo",
            "label_smoothing: 0.1, loss_type: hinge",
            "with loss_type: hinge; it does with sigmoid, simpo, alphapo",
        ),
        ("simpo", "simpo_gamma: 1.0, loss_type: sigmoid", "with loss_type: sigmoid; it does with simpo, alphapo"),
        ("simpo", "cpo_alpha: 0.5, loss_type: alphapo", "with loss_type: alphapo; it does with any other"),
        (
            "grpo",
            "epsilon_high: 0.28",
            "with num_iterations: 1; it does with more, or with several steps for each rollout",
        ),
        ("grpo", "vllm_mode: server", "with use_vllm: false; it does with true"),
        ("grpo", "sapo_temperature_neg: 2", "with loss_type: dapo; it does with sapo"),
        ("grpo", "entropy_target: 0.1", "with use_adaptive_entropy: false; it does with true"),
        ("grpo", "use_bias_correction_kl: false", "with beta: 0.0; it does with more than 0"),
        ("sft", "shuffle_dataset: true", "rows come in an order drawn from the seed"),
        ("sft", "dataset_num_proc: 2", "with as many threads as the recipe's top-level threads says"),
        ("sft", "enable_jit_checkpoint: true", "it would end a stage half trained"),
    ],
)
def test_a_key_that_would_do_nothing_is_refused_with_the_reason(problems, stage, train, said):
    (problem,) = problems(f"stages.{stage}.train={{{train}}}")
    assert said in problem, problem


@pytest.mark.parametrize(
    ("stage", "train"),
    [
        ("dpo", "label_smoothing: 0.1, loss_type: robust"),
        ("dpo", "label_smoothing: 0.0"),  # the default, as `recipe show` prints it
        ("dpo", "loss_weights: [1.0, 0.5], loss_type: [sigmoid, sft]"),
        ("sft", "label_smoothing_factor: 0.1"),
        ("sft", "lr_scheduler_type: constant, warmup_steps: 0"),
        ("sft", "optim: sgd, optim_args: 'momentum=0.9, nesterov=true'"),
        ("sft", "save_strategy: 'no', save_steps: 5"),  # switched off on purpose
        ("sft", "report_to: none, run_name: x"),
        ("sft", "dataloader_num_workers: 2, dataloader_prefetch_factor: 2"),
        ("ppo", "eval_steps: 5"),  # PPO measures every so many steps by itself
        ("grpo", "beta: 0.0"),
        ("grpo", "epsilon_high: 0.28, num_iterations: 2"),
        ("grpo", "epsilon_high: 0.28, steps_per_generation: 4"),
        ("grpo", "shuffle_dataset: false"),
    ],
)
def test_a_key_that_takes_effect_is_accepted(problems, stage, train):
    assert problems(f"stages.{stage}.train={{{train}}}") == []


@pytest.mark.parametrize(
    ("adapter", "said"),
    [
        ("layers_to_transform: [0]", "with target_modules: all-linear; it does with a list of names"),
        ("layers_pattern: h, target_modules: [q_proj]", "with layers_to_transform: null"),
        ("kasa_config: {}", "it changes the base"),
        ("layer_replication: [[0, 1]]", "it changes the base"),
        ("alora_invocation_tokens: [1]", "a row without these tokens would train nothing"),
        ("eva_config: {}", "it belongs to an init_lora_weights that is refused"),
        ("fan_in_fan_out: true", "PEFT sets it as the layers need it"),
    ],
)
def test_a_key_of_the_adapter_that_would_do_nothing_or_harm_is_refused(problems, adapter, said):
    (problem,) = problems(f"adapter={{{adapter}}}")
    assert said in problem


def test_what_is_said_of_all_stages_takes_effect_if_it_does_in_one(problems):
    assert problems("train.label_smoothing_factor=0.1") == []
    without = RECIPE.replace("  sft: {data: {path: chat.jsonl}}\n", "")
    assert (
        "train.label_smoothing_factor: cannot take effect"
        in problems("train.label_smoothing_factor=0.1", text=without)[0]
    )
    constant = ("train.lr_scheduler_type=constant", "train.warmup_steps=5")
    assert "train.warmup_steps: cannot take effect with lr_scheduler_type: constant" in problems(*constant)[0]
    assert problems(*constant, "stages.ppo.train.lr_scheduler_type=linear") == []


def test_few_shot_without_a_right_answer_would_do_nothing(problems, tmp_path):
    shots, pattern = "evaluation.few_shot=4", "stages.sft.evaluation.answer_pattern=x"
    assert "evaluation.few_shot: cannot take effect: it needs answer_pattern or labels" in problems(shots)[0]
    own = f"stages.sft.{shots}"
    assert (
        "stages.sft.evaluation.few_shot: cannot take effect: nothing says which answers are right" in problems(own)[0]
    )
    assert problems(own, pattern) == problems(shots, pattern) == []
    in_reward = problems("stages.reward.evaluation={few_shot: 4, answer_pattern: x}")[0]
    assert "it is not measured in reward" in in_reward
    (tmp_path / "first.yaml").write_text(RECIPE)
    shown = load_recipe(tmp_path / "first.yaml", [shots, pattern]).resolved()["stages"]
    assert shown["sft"]["evaluation"]["few_shot"] == 4 and shown["dpo"]["evaluation"]["few_shot"] == 0


def test_an_empty_stage_is_told_once(problems):
    assert problems("stages.dpo=null") == ["stages.dpo: is empty; give it data: {path: ...}, or leave it out"]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (
            "template: llama-3",
            "model.template: must be one of chatml, gemma, llama3, mistral, plain, qwen, qwen3, raw, a",
        ),
        ("template: llama-3", "did you mean llama3?"),
        ("template: none.jinja", "model.template: none.jinja: no such file"),
        ("attn_implementation: auto", 'not "auto" (left out, transformers chooses one)'),
        ("attn_implementation: flash_attention_2", "flash_attention_2 takes no float32; set model.dtype: bfloat16"),
    ],
)
def test_a_word_that_no_model_would_take_is_told_with_its_line(problems, model, said):
    (problem,) = problems(text=RECIPE.replace("id: m", f"id: m, {model}"))
    assert problem.startswith("model.") and said in problem


def test_a_recipe_that_is_shown_can_be_read_again_and_shows_nothing_that_may_not_be_set(tmp_path, problems):
    (tmp_path / "first.yaml").write_text(RECIPE)
    shown = load_recipe(tmp_path / "first.yaml").resolved()
    assert problems(text=json.dumps(shown)) == []
    assert "shuffle_dataset" not in shown["stages"]["sft"]["train"]
    assert "label_smoothing_factor" in shown["stages"]["sft"]["train"].keys() - shown["stages"]["dpo"]["train"].keys()
    assert "eval_steps" in shown["stages"]["ppo"]["train"] and fields_of("SFTConfig")["shuffle_dataset"]
