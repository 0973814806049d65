"""`align data check`: what a person is told of a file, a stage's data or a mixture."""

import json
import os
import subprocess
import sys

import pytest
from conftest import PROJECT, align, write_micro, write_rows
from prepared import QUESTIONS

from pipeline.model.tokenizer import train

PATHS = os.environ | {"PYTHONPATH": str(PROJECT)}


def test_check_shows_the_account_the_lengths_and_what_is_learned(tmp_path):
    write_micro(tmp_path)
    write_rows(tmp_path / "mine.jsonl", [*QUESTIONS, {"prompt": "a", "completion": ""}])
    done = align("data", "check", "mine.jsonl", "-r", "micro.yaml", cwd=tmp_path, check=False)
    assert done.returncode == 2  # there is a bad row
    assert "41 read = " in done.stdout and "mine.jsonl:41" in done.stdout and '"completion" is empty' in done.stdout
    shown = done.stdout.rpartition("carries loss")[2].replace("·", "").replace("\n", "")
    assert "[ It is 0, so they say</s>]" in shown and "What is 0?" in shown.split("[")[0]
    asked = ("data", "check", "mine.jsonl", "-r", "micro.yaml", "--max-length", 20, "--json")
    report = json.loads(align(*asked, cwd=tmp_path, check=False).stdout)
    assert report["summary"]["truncated"] == 40 and report["lengths"]["100"] > 20
    assert sum(count for *_, count in report["histogram"]) == 40
    assert "Traceback" not in done.stdout + done.stderr


def test_checking_what_a_recipe_mixes(tmp_path):
    write_micro(tmp_path)
    write_rows(tmp_path / "more.jsonl", [{"instruction": f"Name {n}", "output": f"{n}"} for n in range(40)])
    mixture = "    data: {mixture: [{path: chat.jsonl, weight: 3}, {path: more.jsonl, weight: 1}], held_out: 0.2}"
    recipe = (tmp_path / "micro.yaml").read_text()
    recipe = recipe.replace("  sft: {data: {path: chat.jsonl, held_out: 0.2}}", f"  sft:\n{mixture}")
    (tmp_path / "micro.yaml").write_text(recipe)
    said = align("data", "check", "--stage", "sft", "-r", "micro.yaml", cwd=tmp_path).stdout
    assert "the data of sft: rows of the kind conversation, the first ones written as prompt or alpaca" in said
    assert "100 read" in said and "left out for the mixture's weights" in said
    nothing = align("data", "check", "-r", "micro.yaml", cwd=tmp_path, check=False)
    assert nothing.returncode == 2 and "Name files, or a stage" in nothing.stderr + nothing.stdout
    mapped = align("data", "check", "--stage", "sft", "--column", "a=b", "-r", "micro.yaml", cwd=tmp_path, check=False)
    assert mapped.returncode == 2 and "says how its own rows are read" in mapped.stderr + mapped.stdout


def test_a_check_is_of_what_the_stage_would_do(tmp_path):
    write_micro(tmp_path)
    write_rows(
        tmp_path / "many.jsonl", [{"prompt": f"Which colour has {n}?", "completion": "red"} for n in range(5000)]
    )
    recipe = (tmp_path / "micro.yaml").read_text()
    recipe = recipe.replace(
        "  ppo:\n    data: {path: chat.jsonl,", "  ppo:\n    data: {path: many.jsonl, streaming: true,"
    )
    (tmp_path / "micro.yaml").write_text(recipe.replace("response_length: 6", "response_length: 40"))
    said = align("data", "check", "--stage", "ppo", "-r", "micro.yaml", cwd=tmp_path).stdout
    assert "there are more, which max_steps does not need" in said and "would be cut to max_length" in said
    unnamed = align("data", "check", "many.jsonl", "--column", "foo", "-r", "micro.yaml", cwd=tmp_path, check=False)
    assert unnamed.returncode == 2 and "--column foo: names no column" in unnamed.stdout + unnamed.stderr


def test_a_file_and_a_tokenizer_need_no_recipe(tmp_path):
    write_rows(tmp_path / "rows.jsonl", QUESTIONS)
    train(["What is 3?"] * 5, 300).save_pretrained(tmp_path / "tokenizer")
    said = align("data", "check", "rows.jsonl", "--tokenizer", "tokenizer", "--template", "plain", cwd=tmp_path).stdout
    assert "40 read" in said and "carries loss" in said


def test_without_a_tokenizer_words_are_counted_and_nothing_is_cut(tmp_path):
    rows = [
        {"prompt": "What is red ?", "completion": "A colour,\nI think. " * 40},
        {"prompt": "什么是红色？", "completion": "一种颜色。"},
    ]
    write_rows(tmp_path / "rows.jsonl", rows)
    report = json.loads(align("data", "check", "rows.jsonl", "--json", cwd=tmp_path).stdout)
    assert report["unit"] == "words" and report["max_length"] is None and not report["summary"]["truncated"]
    assert report["lengths"]["100"] == 4 + 4 * 40 and report["lengths"]["5"] == 6 + 5  # each 。 is a word, too
    said = align("data", "check", "rows.jsonl", cwd=tmp_path).stdout
    assert "of the words carry loss" in said and "--tokenizer" in said and "[A colour," in said
    for option in (("--max-length", 20), ("--template", "plain")):
        refused = align("data", "check", "rows.jsonl", *option, cwd=tmp_path, check=False)
        assert refused.returncode == 2 and f"{option[0]}: without a tokenizer" in refused.stdout


@pytest.mark.parametrize(
    "options, light",
    [
        ([], ["torch", "transformers", "datasets", "pandas"]),
        (["--tokenizer", "tokenizer"], ["torch", "accelerate", "datasets", "pandas"]),
    ],
)
def test_a_check_of_a_file_loads_none_of_the_heavy_libraries(tmp_path, options, light):
    """They take seconds, and thirty rows do not."""
    write_rows(tmp_path / "rows.jsonl", QUESTIONS[:30])
    train(["What is 3?"] * 5, 300).save_pretrained(tmp_path / "tokenizer")
    code = f"import sys; sys.argv = ['align', 'data', 'check', 'rows.jsonl', *{options}]; from pipeline.cli.main import main\n"
    code += f"try: main()\nexcept SystemExit: print([m for m in {light} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=PATHS, capture_output=True, text=True)
    assert "30 read" in done.stdout and done.stdout.rstrip().endswith("[]"), done.stdout + done.stderr


def test_labels_of_answers_are_told_and_do_not_hide_what_the_file_is(tmp_path):
    write_rows(tmp_path / "rows.jsonl", [row | {"tag": not n % 3} for n, row in enumerate(QUESTIONS)])  # 14 are wanted
    done = align("data", "check", "rows.jsonl", cwd=tmp_path)
    assert "rows of the kind labeled" in done.stdout and "kto can train on them" in done.stdout
    assert '"tag" says of 14 answers that they are wanted; sft would learn these alone' in done.stdout
    done = align("data", "check", "rows.jsonl", "--stage", "sft", cwd=tmp_path, check=False)
    assert "rows of the kind conversation" in done.stdout and "sft can train on them" in done.stdout
    assert (
        '"tag" labels the answers as wanted or unwanted, as for KTO' in done.stdout and "26 are unwanted" in done.stdout
    )


def test_words_that_nothing_reads_are_told(tmp_path):
    rows = [{"question": f"What is {n}?", "context": "It is a thing", "answer": f"{n}"} for n in range(9)]
    write_rows(tmp_path / "rows.jsonl", rows)
    said = align("data", "check", "rows.jsonl", cwd=tmp_path).stdout
    assert 'not used: "context"' in said and "input: context" in said
    mapped = ("--column", "instruction=question", "--column", "input=context", "--column", "output=answer")
    assert "not used" not in align("data", "check", "rows.jsonl", *mapped, cwd=tmp_path).stdout
