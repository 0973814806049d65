"""Stages that are trained by several processes, held against those that one trains, and one of which is lost."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from conftest import align, attempt, manifest, write_micro
from processes import below, kill_rank, start, wait_for, wait_until_gone
from safetensors.torch import load_file
from stage_runs import without_clock
from torch import Tensor

FULL = ("--set", "adapter={method: full}")
HALF = ("--set", "model.dtype=bfloat16")
BEST = ("--set", "stages.sft.train={eval_strategy: steps, eval_steps: 5}", "--set", "stages.sft.keep={best: loss}")


def sft_by(folder: Path, chain: Path, *options: str) -> Path:
    """A chain whose sft is trained with such options, from the pretrain of `chain`."""
    write_micro(folder)
    shutil.copytree(chain / "runs" / "micro" / "pretrain", folder / "runs" / "micro" / "pretrain", symlinks=True)
    align("run", "sft", "-r", "micro.yaml", *options, cwd=folder, alone=True)
    return folder


def without_the_second(folder: Path, *options: str) -> str:
    """What sft says when its second process is killed after a checkpoint; nothing of it is left."""
    process = start(folder, "sft", *options)
    wait_for(folder, "sft/*/checkpoints/checkpoint-4", process)
    kill_rank(1, process.pid)
    said = process.stdout.read()
    assert process.wait() == 1
    assert "process 2 of 2 was killed by SIGKILL" in said and "Traceback" not in said
    wait_until_gone(folder)
    assert not below(process.pid)
    return said


def stopped_by_slurm(folder: Path, *options: str) -> None:
    """SIGTERM to every process of a sft that trains, the launcher among them: one checkpoint is saved, and nothing of it is left."""
    process = start(folder, "sft", *options)
    wait_for(folder, "sft/*/checkpoints/checkpoint-4", process)
    for pid in (process.pid, *below(process.pid)):
        os.kill(pid, signal.SIGTERM)
    said = process.stdout.read()
    assert said.count("saved a checkpoint at step") == 1 and "Traceback" not in said
    assert process.wait() == 128 + signal.SIGTERM
    wait_until_gone(folder)
    assert not below(process.pid)


def by_one_and_by(folder: Path, one: Path, stage: str, options: tuple[str, ...], several: tuple[str, ...]) -> None:
    """A stage with the same options in a copy of `folder`, `one`, by one process, and in `folder` itself by several, from what one
    process made before.
    """
    own = (*options, "--set", "stages.pretrain.adapter=null")
    before = ("pretrain", "sft")[: 1 + (stage == "dpo")]
    align("run", *before, "-r", "micro.yaml", *own, cwd=folder)
    shutil.copytree(folder, one, symlinks=True, dirs_exist_ok=True)
    align("run", stage, "-r", "micro.yaml", *own, cwd=one)
    align("run", stage, "-r", "micro.yaml", *own, *several, cwd=folder, alone=True)


def apart(one: Path, other: Path, stage: str, most: float = 1e-5) -> None:
    """Equal but for rounding: weights, and figures before and after."""
    weights = [tensors(folder, stage) for folder in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        assert value.dtype == weights[1][name].dtype
        assert float((value - weights[1][name]).abs().max()) < most
    figures = [manifest(folder, stage)["metrics"] for folder in (one, other)]
    assert figures[1]["before"] == pytest.approx(figures[0]["before"], abs=1e-5)
    assert figures[1]["after"]["loss"] == pytest.approx(figures[0]["after"]["loss"], abs=1e-4)


def tensors(folder: Path, stage: str) -> dict[str, Tensor]:
    output = attempt(folder, stage) / manifest(folder, stage)["output"]
    return {name: value for file in output.glob("*.safetensors") for name, value in load_file(file).items()}


def lines(folder: Path) -> list[dict]:
    """The log of sft."""
    return without_clock([json.loads(line) for line in (attempt(folder, "sft") / "log.jsonl").read_text().splitlines()])
