"""Kills SFT and DPO of the embedded default while they train, with one method of tuning after the other: `kill -9` at some moments
of one run, continued after each, and then held against a run that was never killed, to the bit. See README.md.

What is done already is found again, so that it may be stopped and given again at any time.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

from against_trl import RESULTS, console, new_table
from kills import (
    PARENTS,
    VICTIMS,
    align,
    attempts,
    begin,
    beside,
    checkpoints,
    compared,
    kill,
    lines,
    manifest,
    phase_of,
    started,
    surroundings,
)
from methods import BASES

from pipeline.model.adapters import METHODS, NAMED

STAGES = ("sft", "dpo")
PATIENCE = 600  # seconds for a stage to come to its next moment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(NAMED))
    parser.add_argument("--moments", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS / f"kill-methods-{datetime.now():%Y-%m-%d}.json")
    options = parser.parse_args()
    runs = json.loads(options.results.read_text())["runs"] if options.results.is_file() else []
    with tempfile.TemporaryDirectory(prefix="kill-methods-") as scratch:
        for method in options.methods:
            if any(one["method"] == method for one in runs):
                continue
            for one in of_method(Path(scratch), method, options.moments):
                runs.append(one)
                console.print(json.dumps(one), soft_wrap=True, markup=False)
            write(options.results, runs)
    show(runs)
    console.print(str(options.results))
    sys.exit(not all(same_to_the_bit(one) for one in runs))


def of_method(scratch: Path, method: str, moments: int) -> list[dict]:
    overrides = (f"adapter={{method: {method}}}", *BASES.get(method, ()))
    base, whole = scratch / ("biased" if method == "bitfit" else "base"), scratch / method / "whole"
    if not base.is_dir():
        begin(base)
        align(base, "pretrain", overrides=overrides)
    begin(whole)
    shutil.copytree(base / "runs/tiny/pretrain", whole / "runs/tiny/pretrain", symlinks=True)
    align(whole, *STAGES, overrides=overrides)
    return [killed(whole, method, stage, moments, overrides) for stage in STAGES]


def killed(whole: Path, method: str, stage: str, moments: int, overrides: tuple[str, ...]) -> dict:
    """One run, killed again and again, and what it ends with."""
    folder, steps, kills = beside(whole, PARENTS[stage]), manifest(whole, stage)["steps"], []
    for number in range(moments):
        process = started(folder, stage, overrides)
        reach(process, folder, stage, (number + 0.5) / moments * steps, in_checkpoint=number % 4 == 1)
        time.sleep(0.007 * number if number % 4 != 1 else 0)  # not always at the end of a step
        victim = VICTIMS[number % len(VICTIMS)]
        alive = kill(process, victim)
        attempt = attempts(folder, stage)[0]
        said, kept = lines(attempt), checkpoints(attempt)
        where = {"logged_step": said[-1]["step"] if said else 0, "checkpoint": kept[-1] if kept else 0}
        kills.append({"victim": victim, "hit": alive, "phase": phase_of(attempt), **where})
    again = align(folder, stage, check=False, overrides=overrides)
    same = compared(whole, folder, stage) if not again.returncode else {"ended": False}
    told = {"method": method, "stage": stage, "steps": steps, "kills": kills, "same": same}
    return told if all(same.values()) else told | {"said": again.stdout[-1000:] + again.stderr[-1000:]}


def reach(process: subprocess.Popen, folder: Path, stage: str, step: float, *, in_checkpoint: bool) -> None:
    """Wait until the run has come so far, or has ended."""
    end = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < end:
        for attempt in attempts(folder, stage):
            phase, said = phase_of(attempt), lines(attempt)
            now = phase.startswith("checkpoint" if in_checkpoint else ("training", "checkpoint"))
            if now and said and said[-1]["step"] >= step:
                return
        time.sleep(0.001)


def same_to_the_bit(one: dict) -> bool:
    return all(one["same"].values()) and all(kill["hit"] for kill in one["kills"])


def write(file: Path, runs: list[dict]) -> None:
    file.write_text(json.dumps(surroundings() | {"runs": runs}, indent=1) + "\n")


def show(runs: list[dict]) -> None:
    table = new_table("Killed", ("", "stage", "of steps", "killed at", "checkpoint then", "same to the bit"))
    for one in runs:
        steps = [" ".join(str(kill[key]) for kill in one["kills"]) for key in ("logged_step", "checkpoint")]
        table.add_row(one["method"], one["stage"], str(one["steps"]), *steps, str(all(one["same"].values())))
    console.print(table)


if __name__ == "__main__":
    main()
