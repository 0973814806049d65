"""A stage that was killed ends as one that never was, to the bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import align, attempt, manifest, write_micro
from filelock import FileLock

STAGES = ("pretrain", "sft", "reward", "dpo", "ppo")


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "run", "-r", "micro.yaml", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # A shell starts its background jobs deaf to Ctrl-C, and their children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def kill(process: subprocess.Popen, folder: Path) -> None:
    """With all that it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    wait_until_gone(folder)


def wait_until_gone(folder: Path) -> None:
    """On a busy machine the last of what was killed is gone, and its lock with it, a moment later."""
    for lock in (folder / "runs").rglob(".lock"):
        with FileLock(lock, timeout=10):
            pass


def wait_for(folder: Path, pattern: str, process: subprocess.Popen) -> None:
    """Until a file of that pattern appears below runs/micro."""
    for _ in range(60_000):
        if any((folder / "runs" / "micro").glob(pattern)):
            return
        assert process.poll() is None, f"it ended before {pattern} was there: {process.stdout.read()}"
        time.sleep(0.001)
    raise AssertionError(f"{pattern} did not appear")


@pytest.fixture
def copied(chain, tmp_path):
    """A folder with the chain's artifacts up to, not including, a stage."""
    import shutil

    def copy(stage: str) -> Path:
        write_micro(tmp_path)
        alone = {"pretrain": (), "sft": ("pretrain",), "ppo": ("pretrain", "sft", "reward")}
        parents = alone.get(stage, ("pretrain", "sft"))
        for parent in parents:
            shutil.copytree(chain / "runs" / "micro" / parent, tmp_path / "runs" / "micro" / parent, symlinks=True)
        return tmp_path

    return copy


@pytest.mark.parametrize("stage", STAGES)
def test_killed_between_checkpoints(chain, copied, stage):
    folder = copied(stage)
    process = start(folder, stage)
    wait_for(folder, f"{stage}/*/checkpoints/checkpoint-4", process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
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


def test_a_half_written_checkpoint_does_not_count(chain, copied):
    folder = copied("sft")
    process = start(folder, "sft")
    wait_for(folder, "sft/*/checkpoints/checkpoint-8", process)
    kill(process, folder)
    (checkpoint,) = (folder / "runs" / "micro" / "sft").glob("*/checkpoints/checkpoint-8")
    weights = checkpoint / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:50])
    assert "from step 4" in align("plan", "sft", "-r", "micro.yaml", cwd=folder).stdout
    align("run", "sft", "-r", "micro.yaml", cwd=folder)
    assert manifest(folder, "sft")["weights_sha256"] == manifest(chain, "sft")["weights_sha256"]


def test_ctrl_c_saves_a_checkpoint_and_says_so(copied):
    folder = copied("sft")
    long = ["--set", "stages.sft.train={max_steps: 400, save_steps: 1000}"]
    process = start(folder, "sft", *long)
    wait_for(folder, "sft/*/log.jsonl", process)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[0]
    assert process.returncode == 130 and "saved a checkpoint at step" in said and "Traceback" not in said
    assert not list(folder.glob("runs/micro/sft/*/manifest.json"))
    assert "continues from step" in align("run", "sft", "-r", "micro.yaml", *long, cwd=folder).stdout
    interrupted = manifest(folder, "sft")
    align("run", "sft", "-r", "micro.yaml", *long, "--fresh", cwd=folder)
    assert manifest(folder, "sft")["weights_sha256"] == interrupted["weights_sha256"]


def test_a_stage_dies_with_its_command(copied):
    folder = copied("sft")
    process = start(folder, "sft")
    wait_for(folder, "sft/*/run.json", process)
    process.kill()
    process.wait()
    again = align("run", "sft", "-r", "micro.yaml", cwd=folder, check=False)
    deadline = time.monotonic() + 20
    while again.returncode == 2 and "another run" in again.stdout and time.monotonic() < deadline:
        again = align("run", "sft", "-r", "micro.yaml", cwd=folder, check=False)
    assert again.returncode == 0, again.stdout
