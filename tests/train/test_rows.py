"""The rows of a stage beside those of the stages before and after it."""

import json

from conftest import (
    align,
    attempt,
    manifest,
    refused,
    write_micro,
    write_rows,
)
from stage_runs import trainer_of

from pipeline.artifact.attempt import ROWS
from pipeline.plan.positions import told_by


def test_held_out_prompts_that_an_earlier_stage_was_trained_on_are_named(tmp_path):
    write_micro(tmp_path)
    said = align("run", "dpo", "-r", "micro.yaml", "--set", "stages.sft.data.held_out=0", cwd=tmp_path).stdout
    assert "held-out prompts were trained on in sft" in said


def test_held_out_rows_that_are_trained_on_in_the_same_stage_are_named(tmp_path):
    write_micro(tmp_path)
    lines = (tmp_path / "chat.jsonl").read_text().splitlines()
    (tmp_path / "some.jsonl").write_text("\n".join(lines[:5]))
    held_out = ("--set", "stages.sft.data.held_out=some.jsonl")
    said = align("run", "sft", "-r", "micro.yaml", *held_out, cwd=tmp_path).stdout
    assert "5 of 5 held-out prompts are trained on in this very stage" in said


def test_rows_are_accounted_for(chain):
    for stage in ("pretrain", "sft", "reward", "dpo"):
        rows = manifest(chain, stage)["data"]["rows"]
        assert rows["read"] == rows["trained"] + rows["held_out"] + rows["dropped"] > 0


def test_rows_prepared_ahead_are_those_that_the_stage_takes(chain):
    kept = [path for path in (chain / "runs" / ROWS).iterdir() if path.is_dir()]
    assert len(kept) == 5  # one a stage: none was prepared twice


def test_bad_rows_can_be_left_out_and_are_listed(built):
    rows = [json.loads(line) for line in (built / "chat.jsonl").read_text().splitlines()]
    write_rows(built / "chat.jsonl", [*rows, {"prompt": "no answer"}])
    align("run", "sft", "-r", "micro.yaml", "--set", "stages.sft.data.on_bad_row=drop", cwd=built)
    folder = attempt(built, "sft")
    rejected = [json.loads(line) for line in (folder / "rejected.jsonl").read_text().splitlines()]
    assert [(one["line"], one["row"]) for one in rejected] == [(len(rows) + 1, {"prompt": "no answer"})]
    counts = json.loads((folder / "manifest.json").read_text())["data"]["rows"]
    assert counts["dropped"] == 1 and counts["read"] == len(rows) + 1


def test_max_length_beyond_the_models_positions(micro):
    for command in (("run",), ("plan",), ("plan", "--gpu", 16, "--fit", 16)):  # nothing is proposed around it
        said = refused(micro, *command, "pretrain", "-r", "micro.yaml", "--set", "train.max_length=100")
        assert "train.max_length is 100, but the model has 64 positions for text" in said, command
        assert "will" not in said and "fits" not in said


def test_the_positions_that_a_config_tells_are_those_for_text():
    assert told_by({}) is None and told_by({"max_position_embeddings": 64}) == 64
    assert told_by({"max_position_embeddings": 8, "text_config": {"max_position_embeddings": 64}}) == 64


def test_a_reward_model_trains_on_whole_conversations_and_leaves_nothing_beside_the_prepared_rows(built, stage_of):
    there = set((built / "runs" / ROWS).rglob("*"))
    trainer, columns = trainer_of(stage_of("reward"))
    made = trainer.train_dataset[:]
    for side in ("chosen_ids", "rejected_ids"):
        assert made.pop(side) == [row["prompt_ids"] + row[side] for row in columns]
    assert made == {"prompt_tokens": [len(row["prompt_ids"]) for row in columns]}  # what both answers share
    assert trainer.lengths == [len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in trainer.train_dataset]
    assert set((built / "runs" / ROWS).rglob("*")) == there
