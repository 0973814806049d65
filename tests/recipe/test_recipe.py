"""A recipe: read rightly, or refused with all its mistakes at once, each at its place."""

import json
import subprocess
import sys
from textwrap import dedent

import pytest
from conftest import PROJECT

from pipeline.recipe.problem import RecipeError
from pipeline.recipe.reading import load_recipe

GOOD = """\
model: {id: some/model, dtype: bfloat16}
adapter: {r: 8}
train: {per_device_train_batch_size: 4, learning_rate: 2e-4}
evaluation: {max_rows: 50, samples: 5}
stages:
  dpo:
    data: {path: [a.jsonl, b.jsonl], held_out: 0}
    train: {learning_rate: 5e-6, beta: 1, loss_type: ipo}
    evaluation: {samples: 1}
  sft:
    data: {path: chat.jsonl}
"""


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Loads a recipe from its text, by the name of a file in the current folder."""
    monkeypatch.chdir(tmp_path)

    def read(text, *overrides):
        (tmp_path / "my.yaml").write_text(dedent(text))
        return load_recipe("my.yaml", overrides)

    return read


@pytest.fixture
def problems(read):
    """The lines of the refusal that a recipe meets with."""

    def problems(text, *overrides):
        with pytest.raises(RecipeError) as caught:
            read(text, *overrides)
        assert str(caught.value).endswith("Mend the recipe and run the same command again.")
        return list(caught.value.problems)

    return problems


def with_sft(rest):
    """A recipe whose first two lines are good, with something more to be judged."""
    return "model: {id: some/model}\nstages: {sft: {data: {path: chat.jsonl}}}\n" + dedent(rest)


def with_train(key):
    """A recipe that sets one key of the SFT stage, in its third line."""
    return f"model: {{id: m}}\nstages: {{sft: {{data: {{path: c}}, train: {{\n  {key} }}}}}}\n"


def test_a_good_recipe_has_its_defaults_and_the_pipelines_order(read):
    read_recipe = read(GOOD)
    assert (read_recipe.name, read_recipe.seed, str(read_recipe.path)) == ("my", 42, "my.yaml")
    assert list(read_recipe.stages) == ["sft", "dpo"]
    assert read_recipe.model.revision == "main"
    assert read_recipe.stage("sft").data.held_out == 0.05


def test_a_stage_stands_on_what_the_recipe_says_of_all(read):
    dpo = read(GOOD).stage("dpo")
    assert dpo.train == {
        "per_device_train_batch_size": 4,
        "learning_rate": 5e-6,
        "beta": 1.0,
        "loss_type": ["ipo"],
    }
    assert (dpo.evaluation.max_rows, dpo.evaluation.samples, dpo.evaluation.batch_size) == (50, 1, 32)
    assert dpo.adapter == {"method": "lora", "r": 8, "lora_alpha": 32, "target_modules": "all-linear"}
    assert (dpo.data.path, dpo.data.held_out, dpo.policy) == (["a.jsonl", "b.jsonl"], 0.0, None)


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
        ("{lora_dropout: 0.1}", "lora_dropout: cannot take effect: TRL switches dropout off in dpo"),
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


def test_data_of_every_stage_stand_under_each_ones_own(read):
    every = "data: {held_out: 0.2, on_bad_row: drop, on_too_long: error, duplicates: drop, max_rows: 90}\n"
    loaded = read(every + GOOD.replace("held_out: 0}", "held_out: pairs.jsonl, max_rows: null, on_bad_row: error}"))
    sft, dpo = loaded.stage("sft").data, loaded.stage("dpo").data
    assert (sft.path, sft.held_out, sft.on_bad_row, sft.on_too_long, sft.duplicates, sft.max_rows) == (
        "chat.jsonl", 0.2, "drop", "error", "drop", 90,
    )  # fmt: skip
    assert (dpo.held_out, dpo.on_bad_row, dpo.on_too_long, dpo.max_rows) == ("pairs.jsonl", "error", "error", None)
    resolved = loaded.resolved()
    assert "data" not in resolved and resolved["stages"]["sft"]["data"]["max_rows"] == 90
    assert read(GOOD).stage("sft").data == read("data:\n" + GOOD).stage("sft").data


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


def test_a_stages_own_adapter_replaces_the_recipes(read):
    stage = read(with_sft("adapter: {r: 4}").replace("}}}", "}, adapter: {method: full}}}")).stage("sft")
    assert stage.adapter == {"method": "full"}


def test_a_recipe_cannot_be_changed(read):
    loaded = read(GOOD)
    with pytest.raises(ValueError, match="frozen"):
        loaded.seed = 1
    loaded.stage("dpo").train["beta"] = 9
    assert loaded.stage("dpo").train["beta"] == 1.0


def test_resolved_is_plain_and_has_the_defaults(read):
    resolved = json.loads(json.dumps(read(GOOD).resolved()))
    assert resolved["model"]["load_in_4bit"] is False
    assert resolved["stages"]["sft"]["train"]["weight_decay"] == 0.0
    assert "output_dir" not in resolved["stages"]["sft"]["train"]


def test_a_model_from_scratch(read):
    loaded = read("""\
        model: {config: {model_type: llama, hidden_size: 96}, tokenizer: {vocab_size: 4096}}
        stages: {pretrain: {data: {path: text.jsonl}}, sft: {data: {path: chat.jsonl}}}
        """)
    assert loaded.model.config["hidden_size"] == 96
    assert loaded.resolved()["stages"]["pretrain"]["adapter"] == {"method": "full"}
    assert loaded.resolved()["stages"]["sft"]["adapter"]["method"] == "lora"


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


@pytest.mark.parametrize(("written", "number"), [("2e-4", 2e-4), ("1E5", 1e5), ("-.5e+1", -5.0), ("1.e-3", 1e-3)])
def test_a_number_with_an_exponent_is_a_number(read, written, number):
    assert read(with_train(f"max_grad_norm: {written}")).stage("sft").train["max_grad_norm"] == number


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
        ("eval_batch_size: 4", "evaluation.batch_size"),
        ("dtype: float32", "model.dtype"),
        ("lerning_rate: 1", "learning_rate"),
    ],
)
def test_an_unknown_key_is_told_the_nearest_or_its_place(problems, key, meant):
    (problem,) = problems(with_train(key))
    name = key.partition(":")[0]
    assert problem.startswith(f"my.yaml:3: stages.sft.train.{name}: unknown key; did you mean {meant}")


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


def test_a_key_that_not_every_stage_has_is_sent_to_those_that_have_it(problems):
    assert problems(GOOD.replace("learning_rate: 2e-4", "beta: 0.1")) == [
        "my.yaml:3: train.beta: sft has no such field; put it under stages.dpo.train",
    ]


def test_a_key_given_twice_names_both_lines(problems):
    assert problems(with_sft("seed: 1\nseed: 2\n")) == ["my.yaml:4: seed: duplicate key, already given in line 3"]


def test_broken_yaml_has_its_line(problems):
    (problem,) = problems("model: {id: m}\nstages: [\n")
    assert problem.startswith("my.yaml:3: not valid YAML: ")


@pytest.mark.parametrize("text", ["stages:\n\tsft: {}\n", "stages: {}\nseed:\t1\n", "stages: {\n  \tsft: {}}}\n"])
def test_a_tab_is_called_one(problems, text):
    assert problems("# a recipe\n" + text) == ["my.yaml:3: not valid YAML: there is a tab; use spaces"]


@pytest.mark.parametrize("first, item", [("[x, x]", "[{}]"), ("{}", "{{<<: [{}]}}")])
def test_a_recipe_whose_anchors_multiply_is_refused_at_once(problems, first, item):
    levels = [item.format(", ".join([f"*a{number}"] * 9)) for number in range(9)]
    lines = [f"a{number}: &a{number} {level}" for number, level in enumerate([first, *levels])]
    (problem,) = problems("\n".join(lines))  # written out they would take minutes
    assert problem.startswith("my.yaml:1: ") and "more than 100,000 values" in problem


def test_a_recipe_that_is_nested_too_deeply_is_a_mistake(problems):
    assert problems("model: " + "[" * 5000) == ["my.yaml:1: is nested too deeply"]


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
        (with_sft("name: ../up"), "my.yaml:3: name: must be a folder's name of letters"),
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
        ("{id: a, load_in_4bit: true}", "adapter.method: full tuning cannot train a 4-bit base"),
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


def test_a_policy_may_be_a_stage_or_a_folder(read, tmp_path):
    (tmp_path / "adapter").mkdir()
    assert read(GOOD, "stages.dpo.policy=adapter").stage("dpo").policy == "adapter"
    assert read(GOOD, "stages.dpo.policy=sft").stage("dpo").policy == "sft"


def test_policies_that_go_round_in_a_circle(problems):
    (problem,) = problems(GOOD, "stages.sft.policy=dpo")
    assert "stages.sft.policy: goes round in a circle: sft starts from dpo, which starts from sft" in problem


def test_overrides_are_yaml_and_make_their_way(read):
    loaded = read(GOOD, "stages.sft.train.learning_rate=1e-5", "adapter.target_modules=[q_proj]", "threads=null")
    assert loaded.stage("sft").train["learning_rate"] == 1e-5
    assert loaded.stage("dpo").train["learning_rate"] == 5e-6
    assert loaded.stage("sft").adapter["target_modules"] == ["q_proj"]
    assert loaded.threads is None


def test_an_override_does_not_reach_through_an_anchor(read):
    loaded = read(
        """\
        model: {id: m}
        stages:
          sft: {data: {path: a}, train: &rate {learning_rate: 1e-4}}
          dpo: {data: {path: b}, train: *rate}
        """,
        "stages.dpo.train.learning_rate=1e-6",
    )
    assert loaded.stage("sft").train == {"learning_rate": 1e-4}
    assert loaded.stage("dpo").train == {"learning_rate": 1e-6}


def test_a_wrong_override_is_named_as_it_was_written(problems):
    assert set(problems(GOOD, "stages.dpo.train.betaa=1", "seed", "threads=0")) == {
        "--set stages.dpo.train.betaa=1: stages.dpo.train.betaa: unknown key; did you mean beta?",
        "--set seed: must look like stages.dpo.train.beta=0.05",
        "--set threads=0: threads: must be greater than or equal to 1",
    }


def test_an_override_cannot_go_below_a_plain_value(problems):
    (problem,) = problems(GOOD, "model.id.more=1")
    assert problem == "--set model.id.more=1: model.id.more: model.id is not a mapping, so it has no more"


def test_merged_keys_keep_their_lines(problems):
    (problem,) = problems("""\
        model: {id: m}
        stages:
          sft: {data: {path: a}, train: &all {weight_decay: 0.1}}
          dpo:
            data: {path: b}
            train:
              <<: *all
              betaa: 1
        """)
    assert problem == "my.yaml:8: stages.dpo.train.betaa: unknown key; did you mean beta?"


def test_an_unknown_stage_is_told_the_nearest(problems):
    (problem,) = problems("model: {id: m}\nstages: {sfft: {}}\n")
    assert problem.startswith("my.yaml:2: stages.sfft: unknown stage; did you mean sft? (there are pretrain, ")


def test_a_missing_recipe_lists_those_there_are(read):
    read(GOOD)
    with pytest.raises(RecipeError, match=r"mi\.yaml: no such recipe; did you mean my\.yaml\?\nThere are: my\.yaml"):
        load_recipe("mi.yaml")


def test_a_stage_that_the_recipe_lacks(read):
    with pytest.raises(RecipeError, match="no stage reward in this recipe"):
        read(GOOD).stage("reward")


def test_reading_a_recipe_imports_nothing_heavy(read):
    read(GOOD)
    heavy = "{'torch', 'transformers', 'trl', 'peft', 'unsloth', 'datasets'}"
    code = (
        "import sys; from pipeline.recipe.reading import load_recipe; load_recipe('my.yaml').resolved(); "
        f"sys.exit(bool({heavy} & set(sys.modules)))"
    )
    root = str(PROJECT)
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": root}).returncode == 0


def test_what_is_learned_is_chosen_in_conversations_alone(problems):
    (problem,) = problems(GOOD, "stages.dpo.data.learn=last")
    assert "stages.dpo.data.learn: cannot take effect" in problem


def test_a_run_has_at_least_one_step(problems):
    (problem,) = problems(GOOD, "stages.sft.train.max_steps=0")
    assert "max_steps: must be at least 1, or -1" in problem


def test_a_shown_dropout_of_the_whole_chain_can_be_read_again(read):
    dropout = read(GOOD, "adapter.lora_dropout=0.1").resolved()["stages"]["dpo"]["adapter"]["lora_dropout"]
    assert read(GOOD, "adapter.lora_dropout=0.1", f"stages.dpo.adapter.lora_dropout={dropout}")


def test_eval_steps_without_a_strategy_cannot_take_effect(problems, read):
    (problem,) = problems(GOOD, "stages.sft.train.eval_steps=5")
    assert "stages.sft.train.eval_steps: cannot take effect" in problem
    (problem,) = problems(GOOD, "train.eval_steps=5")
    assert "train.eval_steps: cannot take effect" in problem
    assert read(GOOD, "train.eval_steps=5", "stages.dpo.train.eval_strategy=steps")
