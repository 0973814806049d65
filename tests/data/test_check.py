"""`align data check`, and what an account says of rows that say the same."""

import json
import os
import subprocess
import sys

import pytest
from conftest import PROJECT, align, write_micro, write_rows
from prepared import asked, lines, prepared

from pipeline.data.check import check
from pipeline.data.prepare.account import refuse_bad_rows
from pipeline.data.prepare.kinds import kind_of
from pipeline.data.source import Data
from pipeline.data.tokens.encoder import Encoder
from pipeline.data.tokens.words import Words
from pipeline.errors import PipelineError
from pipeline.model.tokenizer import train

ROWS = [{"prompt": f"What is {n}?", "completion": f"It is {n}, so they say"} for n in range(40)]

PATHS = os.environ | {"PYTHONPATH": str(PROJECT)}


def made_of(folder, rows, **options):
    write_rows(folder / "rows.jsonl", rows)
    return prepared(folder / "rows.jsonl", folder=folder, **options)


def test_rows_that_say_the_same_are_listed_and_left_out_when_asked(tmp_path):
    same = {"prompt": "what IS  3?", "completion": "It is 3, so they say\n"}
    other_answer = {"prompt": "What is 3?", "completion": "Three"}
    rows = [*ROWS, same, other_answer, ROWS[5]]
    kept = made_of(tmp_path, rows)
    assert kept.account.summary()["duplicates_kept"] == 2 and len(kept.trained) == 43
    listed = [(line["line"], line["same_as"].rpartition(":")[2]) for line in lines(kept, "duplicates.jsonl")]
    assert listed == [(41, "4"), (43, "6")]
    dropped = made_of(tmp_path, rows, duplicates="drop")
    assert dropped.account.dropped_by_reason == {"says the same as an earlier row": 2}
    assert len(dropped.trained) == 41 and not dropped.account.bad


def test_case_and_white_space_do_not_bring_a_question_to_the_other_side(tmp_path):
    shouted = [row | {"prompt": f"  {row['prompt'].upper()}"} for row in ROWS]
    found = made_of(tmp_path, ROWS + shouted, held_out=0.4)
    sides = [{prompt.strip().lower() for prompt in side} for side in asked(found)]
    assert sides[1] and not sides[0] & sides[1]


def test_duplicates_that_were_asked_to_go_are_no_bad_rows(tmp_path):
    write_micro(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "chat.jsonl").read_text().splitlines()]
    write_rows(tmp_path / "chat.jsonl", rows + rows[:3])
    said = align(
        "run", "sft", "-r", "micro.yaml", "--set", "stages.sft.data.duplicates=drop", cwd=tmp_path
    ).stdout  # on_bad_row is error
    assert "dropped 3 x says the same as an earlier row" in said


def test_held_out_prompts_that_an_earlier_stage_was_trained_on_are_named(tmp_path):
    write_micro(tmp_path)
    said = align("run", "dpo", "-r", "micro.yaml", "--set", "stages.sft.data.held_out=0", cwd=tmp_path).stdout
    assert "held-out prompts were trained on in sft" in said


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"prompt": "a", "completion": "b"}, "conversation"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "preference"),
        ({"text": "a"}, "text"),
        ({"prompt": "a", "topic": "b"}, "prompt"),
    ],
)
def test_the_kind_of_a_file_is_told_by_its_rows(tmp_path, row, kind):
    write_rows(tmp_path / "rows.jsonl", [row])
    assert kind_of(Data(path=str(tmp_path / "rows.jsonl"))) == kind


def test_a_file_of_no_kind_says_what_it_has(tmp_path):
    write_rows(tmp_path / "rows.jsonl", [{"colour": "red", "shape": "round"}])
    with pytest.raises(PipelineError, match="colour, shape"):
        kind_of(Data(path=str(tmp_path / "rows.jsonl")))


def test_check_shows_the_account_the_lengths_and_what_is_learned(tmp_path):
    write_micro(tmp_path)
    write_rows(tmp_path / "mine.jsonl", [*ROWS, {"prompt": "a", "completion": ""}])
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


def test_a_bad_row_changes_no_figure_of_the_others(tmp_path):
    encoder, rows = Encoder(train(["number 1"], 300)), [{"text": f"number {n}"} for n in range(4000)]
    reports = []
    for name, some in (("good", rows), ("bad", [{"text": ""}, *rows])):
        write_rows(tmp_path / f"{name}.jsonl", some)
        reports.append(check(Data(path=str(tmp_path / f"{name}.jsonl")), "text", encoder, threads=2))
    good, bad = reports
    assert (good.lengths, good.histogram) == (bad.lengths, bad.histogram) and len(bad.bad) == 1


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


def test_held_out_rows_that_are_trained_on_in_the_same_stage_are_named(tmp_path):
    write_micro(tmp_path)
    lines = (tmp_path / "chat.jsonl").read_text().splitlines()
    (tmp_path / "some.jsonl").write_text("\n".join(lines[:5]))
    held_out = ("--set", "stages.sft.data.held_out=some.jsonl")
    said = align("run", "sft", "-r", "micro.yaml", *held_out, cwd=tmp_path).stdout
    assert "5 of 5 held-out prompts are trained on in this very stage" in said


def test_a_file_and_a_tokenizer_need_no_recipe(tmp_path):
    write_rows(tmp_path / "rows.jsonl", ROWS)
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


@pytest.mark.parametrize("kind, row, long", [
    ("text", {"text": "one two three"}, 3),
    ("prompt", {"prompt": "one two"}, 2),
    ("preference", {"prompt": "one", "chosen": "two three", "rejected": "two"}, 3),
    ("conversation", {"prompt": "one", "completion": "two three"}, 3),
])  # fmt: skip
def test_every_kind_of_row_is_as_long_as_its_words(tmp_path, kind, row, long):
    write_rows(tmp_path / "rows.jsonl", [row])
    report = check(Data(path=str(tmp_path / "rows.jsonl"), held_out=0.0), kind, Words())
    assert report.lengths[100] == long and report.sample[0].text.strip() == "one"


@pytest.mark.parametrize("options, light", [
    ([], ["torch", "transformers", "datasets"]),
    (["--tokenizer", "tokenizer"], ["torch", "accelerate", "datasets"]),
])  # fmt: skip
def test_a_check_of_a_file_loads_none_of_the_heavy_libraries(tmp_path, options, light):
    """They take seconds, and thirty rows do not."""
    write_rows(tmp_path / "rows.jsonl", ROWS[:30])
    train(["What is 3?"] * 5, 300).save_pretrained(tmp_path / "tokenizer")
    code = f"import sys; sys.argv = ['align', 'data', 'check', 'rows.jsonl', *{options}]; from pipeline.cli.main import main\n"
    code += f"try: main()\nexcept SystemExit: print([m for m in {light} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=PATHS, capture_output=True, text=True)
    assert "30 read" in done.stdout and done.stdout.rstrip().endswith("[]"), done.stdout + done.stderr


def test_labels_of_answers_are_told_and_do_not_hide_what_the_file_is(tmp_path):
    write_rows(tmp_path / "rows.jsonl", [row | {"tag": not n % 3} for n, row in enumerate(ROWS)])  # 14 are wanted
    done = align("data", "check", "rows.jsonl", cwd=tmp_path)
    assert "rows of the kind labeled" in done.stdout and "kto can train on them" in done.stdout
    assert '"tag" says of 14 answers that they are wanted' in done.stdout
    done = align("data", "check", "rows.jsonl", "--stage", "sft", cwd=tmp_path, check=False)
    assert "rows of the kind conversation" in done.stdout and "sft can train on them" in done.stdout
    assert (
        '"tag" labels the answers as wanted or unwanted, as for KTO' in done.stdout and "26 are unwanted" in done.stdout
    )


def refusal(folder, rows, kind, stage):
    with pytest.raises(PipelineError) as error:
        refuse_bad_rows(made_of(folder, rows, kind=kind).account, stage)
    return error.value


def test_a_mistake_is_shown_on_three_rows_and_then_counted(tmp_path):
    turns = [{"messages": [{"role": "user", "content": "a"}] * n} for n in (2, 3, 2, 4)]
    error = refusal(tmp_path, [*ROWS, *[{"prompt": "a", "completion": ""}] * 9, *turns, {}], "conversation", "sft")
    shown = error.what.splitlines()
    assert [line.partition("rows.jsonl:")[2].partition(" ")[0] for line in shown[1:]] == ["41", "42", "43", "", "50", "51", "52", "", "54"]  # fmt: skip
    assert shown[4].strip() == "... and 6 more like these" and shown[8].strip() == "... and 1 more like these"
    assert "on_bad_row=drop" in error.fix


@pytest.mark.parametrize(
    "kind, row, looks",
    [
        (
            "conversation",
            {"prompt": "a", "chosen": "b", "rejected": "c"},
            "like preference rows, for dpo, orpo, reward and simpo",
        ),
        ("preference", {"prompt": "a", "completion": "b"}, "like prompts with their answers, for sft"),
        ("conversation", {"text": "a"}, "like texts, for pretrain"),
        ("conversation", {"messages": [{"role": "user", "content": "a"}]}, "like prompts without answers, for ppo"),
        (
            "conversation",
            {"frage": "a", "antwort": "b"},
            "fields are frage, antwort: say in data.columns which is which",
        ),
        ("conversation", {"prompt": "a", "completion": ""}, "Mend what the rows have in common"),
    ],
)
def test_where_all_rows_are_bad_it_is_said_what_they_are(tmp_path, kind, row, looks):
    error = refusal(tmp_path, [row] * 30, kind, "sft")
    assert looks in error.fix and "on_bad_row" not in error.fix
    assert len(error.what.splitlines()) == 5 and "... and 27 more like these" in error.what


def test_unwanted_answers_can_be_left_out_however_many_they_are(tmp_path):
    error = refusal(tmp_path, [row | {"label": False} for row in ROWS], "conversation", "sft")
    assert "learns wanted answers only" in error.fix and "on_bad_row=drop" in error.fix


def test_an_address_is_no_file(tmp_path):
    with pytest.raises(PipelineError) as error:
        kind_of(Data(path="https://example.com/rows.jsonl"))
    assert "an address, which is not read" in str(error.value) and "Download it" in error.value.fix


def test_words_that_nothing_reads_are_told(tmp_path):
    rows = [{"question": f"What is {n}?", "context": "It is a thing", "answer": f"{n}"} for n in range(9)]
    write_rows(tmp_path / "rows.jsonl", rows)
    said = align("data", "check", "rows.jsonl", cwd=tmp_path).stdout
    assert 'not used: "context"' in said and "input: context" in said
    mapped = ("--column", "instruction=question", "--column", "input=context", "--column", "output=answer")
    assert "not used" not in align("data", "check", "rows.jsonl", *mapped, cwd=tmp_path).stdout
