"""max_rows: a random choice of rows that stays the same, and all others accounted for."""

import random

import pytest
from conftest import write_rows
from prepared import lines, plain_tokenizer, prepared, prompts_of

from pipeline.data.prepare.account import BEYOND
from pipeline.data.prepare.one_pass import prepare
from pipeline.data.prepare.work import good_rows
from pipeline.data.source import Data
from pipeline.data.tokens.encoder import Encoder
from pipeline.plan.planner import Planner
from pipeline.recipe.problem import RecipeError
from pipeline.recipe.reading import load_recipe

TALKS = [{"prompt": f"What is {n}?", "completion": f"It is {n}, so they say"} for n in range(400)]


@pytest.fixture
def rows(tmp_path):
    write_rows(tmp_path / "rows.jsonl", TALKS)
    return tmp_path / "rows.jsonl"


def chosen(path, most, **options):
    found = prepared(path, max_rows=most, **({"held_out": 0.2} | options))
    return found, set.union(*prompts_of(found))


def test_the_same_rows_wherever_they_stand_and_a_larger_choice_has_the_smaller(rows, tmp_path):
    found, some = chosen(rows, 50)
    assert len(some) == 50 and 2 <= found.account.held_out <= 20  # the share stays about one
    shuffled = random.Random(1).sample(TALKS, len(TALKS))
    write_rows(tmp_path / "shuffled.jsonl", shuffled)
    assert chosen(tmp_path / "shuffled.jsonl", 50)[1] == some
    _, more = chosen(rows, 120)
    assert some < more and len(more) == 120
    held_out = prompts_of(prepared(rows, held_out=0.2))[1]
    assert prompts_of(found)[1] == held_out & some
    assert chosen(rows, 1000)[0].account == prepared(rows, held_out=0.2).account


def test_what_is_left_out_is_counted_and_listed_without_a_line_for_each(rows):
    found, some = chosen(rows, 5)
    account = found.account.summary()
    assert account["dropped_by_reason"] == {BEYOND: 395} and account["read"] == 400
    listed = lines(found, "rejected.jsonl")
    assert len(listed) <= 6 and {line["reason"] for line in listed} == {BEYOND}
    gone = [number for line in listed for number in range(line["line"], line["through"] + 1)]
    assert sum(line["rows"] for line in listed) == len(gone) == 395
    assert {f"What is {number - 1}?" for number in range(1, 401)} - some == {f"What is {n - 1}?" for n in gone}


def test_a_run_of_rows_ends_with_its_file_and_where_a_row_is_bad(tmp_path):
    write_rows(tmp_path / "a.jsonl", TALKS[:10])
    write_rows(tmp_path / "b.jsonl", [*TALKS[10:15], {"prompt": "no answer"}, *TALKS[15:20]])
    found = prepared(tmp_path / "*.jsonl", max_rows=1, on_bad_row="drop")
    listed = lines(found, "rejected.jsonl")
    assert found.account.trained == 1 and sum(line.get("rows", 1) for line in listed) == 20
    assert all(line["line"] <= line.get("through", line["line"]) for line in listed)
    assert [line["line"] for line in listed if line["reason"] != BEYOND] == [6] and found.account.bad == 1


def test_rows_that_say_the_same_count_as_the_duplicates_are_meant(tmp_path):
    write_rows(tmp_path / "rows.jsonl", TALKS[:4] * 25)
    assert chosen(tmp_path / "rows.jsonl", 60, held_out=0.0)[0].account.trained == 60
    found, some = chosen(tmp_path / "rows.jsonl", 3, held_out=0.0, duplicates="drop")
    assert len(some) == found.account.trained == 3
    assert sum(found.account.dropped_by_reason.values()) == 97


def test_held_out_rows_of_their_own_are_left_whole(rows, tmp_path):
    write_rows(tmp_path / "held.jsonl", TALKS[:30])
    account = chosen(rows, 50, held_out=str(tmp_path / "held.jsonl"))[0].account
    assert (account.trained, account.held_out, account.dropped) == (50, 30, 350)


def test_threads_change_nothing_and_what_is_left_out_is_not_tokenized(rows, tmp_path, monkeypatch):
    from pipeline.data.prepare import one_pass as module

    monkeypatch.setattr(module, "CHUNK", 30)
    tokenizer = plain_tokenizer("What is 3? It is 3, so they say")
    seen = []
    encode = Encoder.encode
    monkeypatch.setattr(Encoder, "encode", lambda self, some, kind: seen.extend(some) or encode(self, some, kind))
    made = []
    for threads in (1, 2):
        (folder := tmp_path / str(threads)).mkdir()
        data = Data(path=str(rows), max_rows=50, on_too_long="error")
        made.append(prepare(data, "conversation", Encoder(tokenizer, 60), folder, threads=threads))
    assert made[0].account == made[1].account and made[0].trained[:] == made[1].trained[:]
    assert lines(made[0], "rejected.jsonl") == lines(made[1], "rejected.jsonl")
    assert len(seen) == 100


def test_a_tokenizer_is_learnt_from_the_rows_that_are_left(rows):
    learned = {one.prompt for _, one in good_rows(Data(path=str(rows), max_rows=50), "conversation")}
    assert learned == chosen(rows, 50)[1]


def test_it_is_part_of_what_is_trained_only_where_it_is_set(rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = "{config: {model_type: llama}, tokenizer: {vocab_size: 300}}"
    (tmp_path / "my.yaml").write_text(f"model: {model}\nstages: {{sft: {{data: {{path: rows.jsonl}}}}}}\n")

    def inputs(*overrides):
        return Planner(load_recipe("my.yaml", overrides), tmp_path / "runs").plan(["sft"])[0].inputs["data"]

    assert inputs().keys() == {"files", "held_out", "on_bad_row", "on_too_long"}
    assert inputs("data.on_bad_row=error", "data.held_out=0.05") == inputs()
    assert inputs("stages.sft.data.max_rows=9") == inputs("data.max_rows=9") == inputs() | {"max_rows": 9}


def test_it_needs_all_rows_and_so_no_streaming(rows, tmp_path):
    text = "model: {id: m}\nstages:\n  sft: {data: {path: c, streaming: true}, train: {max_steps: 3}}\n"
    (file := tmp_path / "my.yaml").write_text(text)
    assert load_recipe(file).stage("sft").data.streaming
    for key in ("data.max_rows=9", "stages.sft.data.max_rows=9"):
        with pytest.raises(RecipeError, match=r"my\.yaml:3: stages\.sft\.data\.streaming: max_rows chooses among all"):
            load_recipe(file, [key])
    assert load_recipe(file, ["data.max_rows=9", "stages.sft.data.max_rows=null"])
