"""YAML with its lines: numbers as people write them, and what is broken told by its line."""

import pytest

from pipeline.recipe import yaml_lines
from recipes import with_sft, with_train


@pytest.mark.parametrize(("written", "number"), [("2e-4", 2e-4), ("1E5", 1e5), ("-.5e+1", -5.0), ("1.e-3", 1e-3)])
def test_a_number_with_an_exponent_is_a_number(read, written, number):
    assert read(with_train(f"max_grad_norm: {written}")).stage("sft").train["max_grad_norm"] == number


def test_a_key_given_twice_names_both_lines(problems):
    assert problems(with_sft("seed: 1\nseed: 2\n")) == ["my.yaml:4: seed: duplicate key, already given in line 3"]


def test_broken_yaml_has_its_line(problems):
    (problem,) = problems("model: {id: m}\nstages: [\n")
    assert problem.startswith("my.yaml:3: not valid YAML: ")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("model：\n  id: m\nstages: {}\n", "line 1 has a full-width ：, which YAML takes for a letter; write a colon"),
        (
            "model: {id: m}\nstages: {sft: {}，dpo: {}}\n",
            "line 2 has a full-width ，, which YAML takes for a letter; write a comma",
        ),
        ("model: ｛id: m｝\nstages: {}\n", "line 1 has a full-width ｛, which YAML takes for a letter; write {"),
        ("model: {id: “m”}\nstages: {}\n", 'model.id: has full-width quotes, which YAML takes for letters; write "m"'),
        (
            "model: {id: m}\nadapter: {target_modules: [q_proj，v_proj]}\n",
            "has a full-width ，, which YAML takes for a letter",
        ),
        ("model: {id: m, seed：1}\nstages: {}\n", "model.seed：1: has a full-width ：, which YAML takes for a letter"),
    ],
)
def test_the_signs_of_a_chinese_keyboard_are_named(problems, text, told):
    assert told in "\n".join(problems(text))


def test_words_in_chinese_are_no_signs(problems):
    quoted = 'model: {id: m}  # 说明：好\nname: "你好，世界：{}"\nstages: [\n'
    assert "full-width" not in "\n".join(problems(quoted))
    assert yaml_lines.load('"你好：": 1\nname: 你好，世界\n', "my.yaml").problems == []


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
