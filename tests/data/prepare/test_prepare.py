"""Rows prepared once and kept on disk: the same whichever way they were made, and made again where anything changed."""

import json
from pathlib import Path

import pytest
from conftest import align, attempt, manifest, write_micro, write_rows
from prepared import lines, plain_tokenizer

from pipeline.artifact.attempt import ROWS
from pipeline.data.prepare import cache, one_pass
from pipeline.data.source import Data
from pipeline.data.tokens.encoder import Encoder
from pipeline.errors import PipelineError
from pipeline.model.tokenizer import train

TALKS = [{"prompt": f"What is {n % 90}?", "completion": f"It is {n}, so they say"} for n in range(100)]


@pytest.fixture(scope="module")
def tokenizer():
    return plain_tokenizer("What is 3? It is 3, so they say")


def test_several_threads_make_the_same_rows_as_one(tokenizer, tmp_path, monkeypatch):
    rows = [*TALKS, {"prompt": "a", "completion": ""}, TALKS[4]] * 30
    write_rows(tmp_path / "rows.jsonl", rows)
    data = Data(path=str(tmp_path / "rows.jsonl"), held_out=0.2, on_bad_row="drop")
    made = []
    monkeypatch.setattr(one_pass, "CHUNK", 200)
    for threads in (1, 2):
        folder = tmp_path / str(threads)
        folder.mkdir()
        made.append(one_pass.prepare(data, "conversation", Encoder(tokenizer, 30), folder, threads=threads))
    one, two = made
    assert one.account == two.account and one.account.dropped == 30 and one.account.read == len(rows)
    assert one.trained[:] == two.trained[:] and one.held_out[:] == two.held_out[:]
    for name in ("rejected.jsonl", "truncated.jsonl", "duplicates.jsonl"):
        assert lines(one, name) == lines(two, name)
    assert lines(one, "rejected.jsonl") and lines(one, "duplicates.jsonl")


def once(data: Data, tokenizer, runs: Path, contents="a", check=lambda account: None, **options):
    """The folder of the rows, and whether they were made now."""
    made = []
    found = cache.prepared_once(
        data,
        "conversation",
        Encoder(tokenizer, **options),
        runs,
        contents={"files": contents},
        check=check,
        threads=1,
        progress=made.append,
    )
    return found.folder, bool(made)


def test_the_same_rows_are_prepared_once_and_again_where_anything_changed(tokenizer, tmp_path, monkeypatch):
    write_rows(tmp_path / "rows.jsonl", TALKS)
    data = Data(path=str(tmp_path / "rows.jsonl"))
    first, made = once(data, tokenizer, tmp_path)
    assert made and once(data, tokenizer, tmp_path) == (first, False)
    assert once(data.model_copy(update={"on_bad_row": "drop"}), tokenizer, tmp_path) == (first, False)
    assert once(data, tokenizer, tmp_path, contents="b")[1] and once(data, tokenizer, tmp_path, max_length=20)[1]
    assert once(data.model_copy(update={"duplicates": "drop"}), tokenizer, tmp_path)[1]
    other = train(["Other words"] * 5, 301)
    other.chat_template = tokenizer.chat_template
    assert once(data, other, tmp_path)[1]
    other.chat_template += " "
    assert once(data, other, tmp_path)[1]
    monkeypatch.setattr(cache, "_code", lambda: "another version")
    assert once(data, tokenizer, tmp_path)[1]


def test_what_was_refused_or_broke_off_leaves_nothing(tokenizer, tmp_path):
    write_rows(tmp_path / "rows.jsonl", TALKS)

    def refuse(account):
        raise PipelineError("no")

    with pytest.raises(PipelineError):
        once(Data(path=str(tmp_path / "rows.jsonl")), tokenizer, tmp_path, check=refuse)
    assert not list((tmp_path / ROWS).iterdir())
    (tmp_path / "rows.jsonl").write_text("[" + json.dumps(TALKS[0]))
    with pytest.raises(PipelineError, match="not closed"):
        once(Data(path=str(tmp_path / "rows.jsonl")), tokenizer, tmp_path)
    assert not list((tmp_path / ROWS).iterdir())


def test_kept_rows_are_refused_where_bad_ones_are_not_wanted_any_more(tokenizer, tmp_path):
    from pipeline.data.prepare.account import refuse_bad_rows

    write_rows(tmp_path / "rows.jsonl", [*TALKS, {"prompt": "a", "completion": ""}])
    data = Data(path=str(tmp_path / "rows.jsonl"), on_bad_row="drop")
    once(data, tokenizer, tmp_path)
    with pytest.raises(PipelineError, match=r"rows\.jsonl:101"):
        once(data, tokenizer, tmp_path, check=lambda account: refuse_bad_rows(account, "sft"))


def test_stages_share_prepared_rows_and_gc_takes_those_that_none_used(tmp_path):
    write_micro(tmp_path)
    align("run", "dpo", "-r", "micro.yaml", cwd=tmp_path)
    kept = {path.name for path in (tmp_path / "runs" / ROWS).iterdir()}
    assert kept == {manifest(tmp_path, stage)["data"]["prepared"] for stage in ("pretrain", "sft", "dpo")}
    first = attempt(tmp_path, "dpo")
    align("run", "dpo", "-r", "micro.yaml", "--set", "stages.dpo.train.learning_rate=1e-3", cwd=tmp_path)
    assert {path.name for path in (tmp_path / "runs" / ROWS).iterdir()} == kept and attempt(tmp_path, "dpo") != first
    (tmp_path / "runs" / ROWS / "old").mkdir()
    assert "old" in align("gc", "-r", "micro.yaml", "--delete", cwd=tmp_path).stdout
    assert {path.name for path in (tmp_path / "runs" / ROWS).iterdir()} == kept


def test_an_error_behind_what_is_enough_is_never_met(tokenizer, tmp_path, monkeypatch):
    """Whatever the threads that read ahead; and where it is met, the rows before it count alike."""
    monkeypatch.setattr(one_pass, "CHUNK", 10)
    (tmp_path / "rows.json").write_text("[" + ",\n".join(json.dumps(row) for row in TALKS) + ", {")
    data = Data(path=str(tmp_path / "rows.json"), streaming=True, held_out=0.0)
    for threads in (1, 2, 4):
        folder = tmp_path / str(threads)
        folder.mkdir()
        made = one_pass.prepare(
            data, "conversation", Encoder(tokenizer, 60), folder, threads=threads, enough=one_pass.Enough(60)
        )
        assert made.account.read == 60 and made.account.partial


def test_what_is_counted_as_bad_does_not_depend_on_the_threads(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(one_pass, "CHUNK", 10)
    write_rows(tmp_path / "rows.jsonl", [{"prompt": "a", "completion": ""}, *TALKS])
    data = Data(path=str(tmp_path / "rows.jsonl"), on_too_long="error", held_out=0.0)
    bad = []
    for threads in (1, 2, 4):
        (folder := tmp_path / str(threads)).mkdir()
        bad.append(
            one_pass.prepare(data, "conversation", Encoder(tokenizer, 8, "error"), folder, threads=threads).account
        )
    assert bad[0] == bad[1] == bad[2] and bad[0].bad == 10


def test_a_row_that_is_not_trained_on_makes_no_other_a_duplicate(tokenizer, tmp_path):
    spaced = {"prompt": "What is 3?", "completion": "It is 3" + " " * 60 + "so they say"}
    same = {"prompt": "What is 3?", "completion": "It is 3 so they say"}
    write_rows(tmp_path / "rows.jsonl", [spaced, same])
    data = Data(path=str(tmp_path / "rows.jsonl"), on_too_long="drop", duplicates="drop", held_out=0.0)
    (folder := tmp_path / "made").mkdir()
    length = len(tokenizer(same["prompt"] + same["completion"]).input_ids) + 20
    assert one_pass.prepare(data, "conversation", Encoder(tokenizer, length, "drop"), folder).account.trained == 1


def test_dropped_duplicates_are_counted_as_such_however_many_reasons_there_are(tokenizer, tmp_path):
    bad = [{"messages": [{"role": f"role{n}", "content": "a"}]} for n in range(150)]
    write_rows(tmp_path / "rows.jsonl", [*bad, *TALKS[:5], *TALKS[:5]])
    data = Data(path=str(tmp_path / "rows.jsonl"), on_bad_row="drop", duplicates="drop", held_out=0.0)
    (folder := tmp_path / "made").mkdir()
    account = one_pass.prepare(data, "conversation", Encoder(tokenizer, 60), folder).account.summary()
    assert account["duplicates_kept"] == 0 and account["dropped_by_reason"]["says the same as an earlier row"] == 5
