"""The adapter of a stage: merged from both places, and where one goes on, only what can take effect."""

import pytest

from recipes import GOOD, with_sft


@pytest.mark.parametrize(
    ("common", "own", "merged"),
    [
        ("{r: 4, target_modules: [q_proj]}", "{r: 2}", {"method": "lora", "r": 2, "target_modules": ["q_proj"]}),
        ("{r: 4, target_modules: [q_proj]}", "{method: full}", {"method": "full"}),
        ("{method: full}", "{method: lora}", {"method": "lora", "r": 16, "target_modules": "all-linear"}),
        ("{method: full}", "{r: 2}", {"method": "lora", "r": 2, "target_modules": "all-linear"}),
        ("{method: full}", "{}", {"method": "full"}),
        ("{lora_alpha: 4}", "{}", {"method": "lora", "r": 16, "lora_alpha": 4, "target_modules": "all-linear"}),
    ],
)
def test_a_stages_own_adapter_goes_on_top_of_the_recipes(read, common, own, merged):
    loaded = read(with_sft(f"adapter: {common}").replace("}}}", f"}}, adapter: {own}}}}}"))
    lora = {"lora_alpha": 32} if merged["method"] == "lora" else {}
    assert loaded.stage("sft").adapter == lora | merged


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ("{r: 4}", "r: cannot take effect: the adapter of sft goes on here, whose r is 8"),
        ("{target_modules: [q_proj]}", "target_modules: cannot take effect: the adapter of sft goes on here"),
        ("{use_dora: true}", "use_dora: cannot take effect: the adapter of sft goes on here, whose use_dora is false"),
        ("{method: full}", "method: full tuning on top of the adapter of sft"),
        ("{lora_dropout: 0.1}", "lora_dropout: cannot take effect: dropout is switched off in dpo"),
    ],
)
def test_what_cannot_take_effect_on_an_adapter_that_goes_on_is_refused(problems, own, said):
    (problem,) = problems(GOOD, f"stages.dpo.adapter={own}")
    assert f"stages.dpo.adapter.{said}" in problem


def test_what_is_true_of_an_adapter_that_goes_on_may_be_said_again_and_dropout_be_changed(read):
    own = "stages.dpo.adapter={r: 8, method: lora, lora_alpha: 32, lora_dropout: 0.1}"
    loaded = read(GOOD, own, "stages.dpo.train.disable_dropout=false")
    assert loaded.resolved()["stages"]["dpo"]["adapter"]["lora_dropout"] == 0.1


def test_a_recipe_shows_the_adapter_that_goes_on(read):
    stages = read(GOOD, "stages.sft.adapter.r=2").resolved()["stages"]
    assert stages["sft"]["adapter"] == stages["dpo"]["adapter"] and stages["dpo"]["adapter"]["r"] == 2


def test_ppo_takes_no_dropout_and_a_model_from_scratch_no_adapter(problems):
    scratch = """\
        model: {config: {model_type: llama}, tokenizer: {vocab_size: 512}}
        stages:
          pretrain: {data: {path: c}, adapter: {r: 4}}
          sft: {data: {path: c}}
          ppo: {data: {path: c}, reward_function: f.py:f, adapter: {lora_dropout: 0.1}}
        """
    assert [problem.partition("; ")[0] for problem in problems(scratch)] == [
        "my.yaml:3: stages.pretrain.adapter.r: a model from scratch has no base to adapt, and every weight of it is trained",
        "my.yaml:5: stages.ppo.adapter.lora_dropout: cannot take effect: ppo trains without dropout, for the old "
        "log-probabilities to be exact",
    ]


def test_a_stages_own_adapter_replaces_the_recipes(read):
    stage = read(with_sft("adapter: {r: 4}").replace("}}}", "}, adapter: {method: full}}}")).stage("sft")
    assert stage.adapter == {"method": "full"}


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("lora_rank: 4", "adapter.lora_rank: unknown key; did you mean r?"),
        ("lora_dropuot: 0.1", "adapter.lora_dropuot: unknown key; did you mean lora_dropout?"),
        ("r: 8.5", "adapter.r: must be a whole number, not 8.5"),
        ("modules_to_save: [x]", "adapter.modules_to_save: is not set in a recipe"),
        ("bias: all", "adapter.bias: all is refused: PEFT allows one adapter with trained biases"),
        ("method: qlora", "adapter.method: qlora is method lora on a 4-bit base"),
        ("method: full, r: 4", "adapter.r: belongs to method lora; full tuning has no adapter"),
    ],
)
def test_the_adapters_keys_are_pefts(problems, key, said):
    (problem,) = problems(with_sft(f"adapter: {{{key}}}"))
    assert problem.startswith(f"my.yaml:3: {said}")


def test_a_shown_dropout_of_the_whole_chain_can_be_read_again(read):
    dropout = read(GOOD, "adapter.lora_dropout=0.1").resolved()["stages"]["dpo"]["adapter"]["lora_dropout"]
    assert read(GOOD, "adapter.lora_dropout=0.1", f"stages.dpo.adapter.lora_dropout={dropout}")
