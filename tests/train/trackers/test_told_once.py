"""A stage that is killed and goes on: its trackers have each step once, as they read themselves."""

import json
import os

import pytest
from conftest import align, attempt, manifest
from processes import kill, start, wait_for
from read_back import expected, in_tensorboard, in_wandb

from pipeline.artifact.attempt import Attempt

TOLD = ["--set", "train.report_to=[tensorboard, wandb]", "--set", "train.logging_steps=1"]
LONGER = {
    "sft": [*TOLD, "--set", "train.max_steps=60", "--set", "train.eval_strategy=steps", "--set", "train.eval_steps=7"],
    "ppo": [*TOLD, "--set", "stages.ppo.train.max_steps=24", "--set", "stages.ppo.train.save_steps=6"],
}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)


def wait_for_steps_after_the_checkpoint(folder, stage, process, step) -> None:
    wait_for(folder, f"{stage}/*/checkpoints/checkpoint-{step}", process)
    (log,) = (folder / "runs" / "micro" / stage).glob("*/log.jsonl")
    while f'"step": {step + 3}' not in log.read_text():
        assert process.poll() is None, process.stdout.read()


@pytest.mark.parametrize("stage", ["sft", pytest.param("ppo", marks=pytest.mark.slow)])
def test_each_step_is_told_once_whenever_the_stage_was_killed(copied, stage):
    folder = copied(stage)
    process = start(folder, stage, *LONGER[stage])
    wait_for_steps_after_the_checkpoint(folder, stage, process, 4 if stage == "sft" else 6)
    kill(process, folder)
    (curves,) = (folder / "runs" / "micro" / "tensorboard" / stage).iterdir()
    killed_at = max(step for _, step, _ in in_tensorboard(curves)[0])
    resumed_at = Attempt(folder / "runs" / "micro" / stage / curves.name).checkpoints()[0][0]
    assert killed_at > resumed_at
    said = align("run", stage, "-r", "micro.yaml", *LONGER[stage], cwd=folder).stdout
    assert f"from step {resumed_at}" in said

    made, place = manifest(folder, stage), attempt(folder, stage)
    points = expected(place, made["metrics"]["before"], made["metrics"]["after"])
    shown, texts = in_tensorboard(curves)
    assert [point[:2] for point in shown] == [point[:2] for point in points]
    assert [value for *_, value in shown] == pytest.approx([value for *_, value in points], rel=1e-6)
    kept, summary, records = in_wandb(folder / "runs" / "micro" / "wandb", place.name)
    assert kept == points
    assert {step for name, step, _ in kept if name == "train/loss"} == {*range(1, made["steps"] + 1)}

    assert curves.name == place.name
    (run,) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert (run.run_id, run.run_group, run.job_type) == (place.name, "micro", stage)
    config = {one.key: json.loads(one.value_json) for one in run.config.update}
    assert config["fingerprint"] == made["fingerprint"] and config["train"]["logging_steps"] == 1
    assert f"fingerprint: {made['fingerprint']}" in texts["recipe"]
    for when, figures in made["metrics"].items():
        assert figures.items() <= {name.removeprefix(f"{when}/"): value for name, value in summary.items()}.items()
    assert all(f"| {name} |" in texts["figures"] for name in made["metrics"]["after"])
    (table,) = (place.parent.parent / "wandb").glob(f"*-{place.name}/files/media/table/samples*.json")
    rows = json.loads(table.read_text())
    assert [dict(zip(rows["columns"], row, strict=True)) for row in rows["data"]] == made["samples"]
    assert all(f"| {sample['prompt']} |" in texts["samples"] for sample in made["samples"])

    assert made["trackers"]["tensorboard"] == {"folder": str(curves.relative_to(folder))}
    assert made["trackers"]["wandb"]["mode"] == "offline" and "failed" not in made["trackers"]["wandb"]
    everything = [path.read_bytes() for path in (folder / "runs").rglob("*") if path.is_file()]
    assert not any(os.environ["WANDB_API_KEY"].encode() in text for text in everything)
