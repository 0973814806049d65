"""A stage that was killed ends as one that never was, to the bit."""

import json
import os
import signal

import pytest
from conftest import align, attempt, manifest
from processes import kill, start, wait_for, wait_until_gone

STAGES = ("pretrain", "sft", "reward", "dpo", "ppo")


@pytest.mark.parametrize("stage", STAGES)
def test_killed_between_checkpoints(chain, copied, stage):
    folder = copied(stage)
    process = start(folder, stage)
    wait_for(folder, f"{stage}/*/checkpoints/checkpoint-4", process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_until_gone(folder)  # the stage's own process notices that its command is gone
    said = align("run", stage, "-r", "micro.yaml", cwd=folder).stdout
    assert "continue" in said
    assert manifest(folder, stage)["tokens"] == manifest(chain, stage)["tokens"]
    assert manifest(folder, stage)["weights_sha256"] == manifest(chain, stage)["weights_sha256"]
    assert manifest(folder, stage)["metrics"] == manifest(chain, stage)["metrics"]


def test_ppo_killed_inside_a_rollout(chain, copied):
    folder = copied("ppo")
    process = start(folder, "ppo")
    wait_for(folder, "ppo/*/checkpoints/checkpoint-6", process)  # a rollout lasts four steps
    kill(process, folder)
    assert "from step 6" in align("run", "ppo", "-r", "micro.yaml", cwd=folder).stdout
    assert manifest(folder, "ppo")["weights_sha256"] == manifest(chain, "ppo")["weights_sha256"]
    assert manifest(folder, "ppo")["metrics"] == manifest(chain, "ppo")["metrics"]
    resumed, whole = (figures((attempt(one, "ppo") / "log.jsonl").read_text()) for one in (folder, chain))
    assert resumed == whole


def figures(log: str) -> list[dict]:
    """The lines of a log without what depends on the clock."""
    lines = [json.loads(line) for line in log.splitlines()]
    return [
        {key: value for key, value in line.items() if key.startswith(("objective/", "val/", "loss"))} for line in lines
    ]


@pytest.mark.parametrize(
    "moment",
    ["checkpoints/.partial", "before.json", ".adapter", "adapter"],
    ids=["writing a checkpoint", "after the first evaluation", "writing the adapter", "before the manifest"],
)
def test_killed_while_writing(chain, copied, moment):
    folder = copied("dpo")
    process = start(folder, "dpo")
    wait_for(folder, f"dpo/*/{moment}", process)
    kill(process, folder)
    align("run", "dpo", "-r", "micro.yaml", cwd=folder)
    assert manifest(folder, "dpo")["weights_sha256"] == manifest(chain, "dpo")["weights_sha256"]
    assert manifest(folder, "dpo")["metrics"] == manifest(chain, "dpo")["metrics"]
