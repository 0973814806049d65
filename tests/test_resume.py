"""A stage that was killed ends as one that never was, to the bit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import align, attempt, manifest, write_micro

STAGES = ("pretrain", "sft", "reward", "dpo")


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "run", "-r", "micro.yaml", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


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
        parents = {"pretrain": (), "sft": ("pretrain",)}.get(stage, ("pretrain", "sft"))
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
    assert manifest(folder, stage)["weights_sha256"] == manifest(chain, stage)["weights_sha256"]
    assert manifest(folder, stage)["metrics"] == manifest(chain, stage)["metrics"]
