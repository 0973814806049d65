"""Kills every stage of the micro chain again and again, and checks that what it ends with is the same to the bit.

Not a test of the suite, since it takes the better part of an hour:

    python tests/kill_campaign.py --results benchmarks/results/kill.json

Ten moments spread over the stage's wall time for each of three victims (the command, the stage's own process,
both groups of processes), and two kills in each of four phases of writing.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
from conftest import align, attempt, manifest
from rollouts import write_rollouts

from pipeline.artifact.digests import file_sha256

PARENTS = {
    "pretrain": (),
    "sft": ("pretrain",),
    "reward": ("pretrain", "sft"),
    "dpo": ("pretrain", "sft"),
    "ppo": ("pretrain", "sft", "reward"),
    "grpo": ("pretrain", "sft", "reward"),
    "rloo": ("pretrain", "sft", "reward"),
}
VICTIMS = ("the command", "the stage's process", "the whole group")
LONGER = [
    "--set",
    "train.max_steps=150",
    "--set",
    "train.save_steps=10",
    "--set",
    "stages.grpo.train.save_steps=7",  # inside a rollout, which lasts four
    "--set",
    "stages.rloo.train.save_steps=7",
]  # so that training outweighs loading libraries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--moments", type=int, default=10)
    parser.add_argument("--victims", nargs="*", default=VICTIMS, choices=VICTIMS)
    parser.add_argument("--stages", nargs="*", default=list(PARENTS))
    options = parser.parse_args()
    trials: list[dict] = []
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole"
        whole.mkdir()
        write_rollouts(whole)
        align("run", *options.stages, "-r", "micro.yaml", *LONGER, cwd=whole)
        for stage in options.stages:
            trials += campaign(whole, stage, options.moments, options.victims)
    failed = [trial for trial in trials if not trial["same"]]
    print(f"{len(trials)} kills, {len(failed)} ended otherwise than the uninterrupted run")
    if options.results:
        options.results.write_text(json.dumps({"date": time.strftime("%Y-%m-%d"), "trials": trials}, indent=1) + "\n")
    sys.exit(bool(failed))


def campaign(whole: Path, stage: str, moments: int, victims: Sequence[str]) -> list[dict]:
    started = time.monotonic()
    begun(whole, stage)[0].wait()
    wall = time.monotonic() - started
    trials = []
    for victim in victims:
        for number in range(moments):
            moment = wall * (number + 0.5) / moments
            trials.append(trial(whole, stage, victim, f"{moment:.1f} s of {wall:.1f}", after(moment)))
    phases = {
        "a checkpoint": [seen(stage, "checkpoints/.partial/*")] * 2,
        "the evaluation": [logged(stage, "evaluation before"), logged(stage, "evaluation after")],
        "the final weights": [seen(stage, ".model/*" if stage == "pretrain" else ".adapter/*")] * 2,
        "the manifest": [logged(stage, "manifest")] * 2,
    }
    if stage in ("ppo", "grpo", "rloo"):
        phases["a rollout"] = [logged(stage, "rollout")] * 2
    for phase, moments in phases.items():
        for victim, moment in zip(victims, moments, strict=False):
            trials.append(trial(whole, stage, victim, f"while writing {phase}", moment))
    return trials


def begun(whole: Path, stage: str) -> tuple[subprocess.Popen, Path]:
    """The stage, started in a folder of its own in which its parents are finished."""
    folder = Path(tempfile.mkdtemp(dir=whole.parent))
    write_rollouts(folder)
    for parent in PARENTS[stage]:
        shutil.copytree(whole / "runs" / "micro" / parent, folder / "runs" / "micro" / parent, symlinks=True)
    command = [sys.executable, "-m", "pipeline.cli", "run", stage, "-r", "micro.yaml", *LONGER]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, cwd=folder, start_new_session=True, **quiet), folder


def after(seconds: float) -> Callable:
    return lambda process, folder: time.sleep(seconds)


def seen(stage: str, pattern: str) -> Callable:
    def wait(process: subprocess.Popen, folder: Path) -> None:
        while process.poll() is None and not any(folder.glob(f"runs/micro/{stage}/*/{pattern}")):
            time.sleep(0.0005)

    return wait


def logged(stage: str, phase: str) -> Callable:
    def wait(process: subprocess.Popen, folder: Path) -> None:
        while process.poll() is None and not phase_of(folder, stage).startswith(phase):
            time.sleep(0.0005)

    return wait


def trial(whole: Path, stage: str, victim: str, moment: str, wait: Callable) -> dict:
    process, folder = begun(whole, stage)
    wait(process, folder)
    hit = kill(process, victim)
    process.wait()
    phase = phase_of(folder, stage)
    time.sleep(0.3)  # the stage's process notices that its parent is gone
    again = align("run", stage, "-r", "micro.yaml", *LONGER, cwd=folder, check=False)
    same = again.returncode == 0 and (
        manifest(folder, stage)["weights_sha256"] == manifest(whole, stage)["weights_sha256"]
        and manifest(folder, stage)["metrics"] == manifest(whole, stage)["metrics"]
        and value_of(folder, stage) == value_of(whole, stage)
    )
    row = {"stage": stage, "victim": victim, "moment": moment, "hit": hit, "phase": phase, "same": same}
    print(json.dumps(row | ({} if same else {"said": again.stdout[-600:]})), flush=True)
    if same:
        shutil.rmtree(folder)
    return row


def value_of(folder: Path, stage: str) -> str | None:
    """The digest of all that the last checkpoint of a stage with rollouts holds beside the policy: them, a value model."""
    checkpoints = attempt(folder, stage).glob("checkpoints/checkpoint-*")
    files = (
        one / name
        for one in checkpoints
        for name in ("ppo.safetensors", "rollout.safetensors")
        if (one / name).is_file()
    )
    last = max(files, key=lambda file: int(file.parent.name.partition("-")[2]), default=None)
    return file_sha256(last) if last else None


def kill(process: subprocess.Popen, victim: str) -> bool:
    """SIGKILL to the victim; whether it was still alive to be hit."""
    try:
        workers = psutil.Process(process.pid).children()
    except psutil.NoSuchProcess:
        return False
    victims = {"the command": [process.pid], "the stage's process": [w.pid for w in workers]}
    pids = victims.get(victim, [process.pid, *(w.pid for w in workers)])
    alive = process.poll() is None and bool(pids)
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            alive = False
    return alive


def phase_of(folder: Path, stage: str) -> str:
    """The last phase that the stage's own log names."""
    logs = list(folder.glob(f"runs/micro/{stage}/*/stage.log"))
    lines = [line for line in logs[0].read_text().splitlines() if line[2:3] == ":"] if logs else []
    return lines[-1][9:] if lines else "before the stage began"


if __name__ == "__main__":
    main()
