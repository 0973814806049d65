"""What each stage's first step says of its reference, for each backend and each way to hold it: a table. See README.md."""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from against_trl import CORES, PROJECT, RESULTS, console, new_table
from kills import SHORT, attempts, begin

TOLERANCE = 1e-4  # of train/reference.py, which stops a stage that is further off
# What a figure of the first step has to be where the policy is its reference. The others have none: their first loss has
# only to be the same whatever computes it.
EXPECTED = {
    "dpo": ("loss", math.log(2)),
    "kto": ("loss", 0.5),
    "grpo": ("kl", 0.0),
    "rloo": ("kl", 0.0),
    "ppo": ("objective/kl", 0.0),
    **dict.fromkeys(("sft", "reward", "orpo", "simpo"), ("loss", None)),
}
ANEW = "stages.{stage}.train.precompute_ref_log_probs=false"
WHOLE = ["stages.{stage}.policy=pretrain", "stages.{stage}.adapter={{method: full}}"]
# Each way: what it is called, what it sets, and the stages that have it.
WAYS = {
    "LoRA": ([], EXPECTED),
    "LoRA, reference run anew": ([ANEW], ("dpo", "kto")),
    "all weights": (WHOLE, EXPECTED),
    "all weights, reference run anew": ([*WHOLE, ANEW], ("dpo", "kto")),
    "Unsloth, LoRA": (["stages.{stage}.use_unsloth=true"], EXPECTED),
    "Unsloth, LoRA, reference run anew": (["stages.{stage}.use_unsloth=true", ANEW], ("dpo", "kto")),
}
OWN = {"dpo": ["stages.dpo.train.loss_type=sigmoid", "stages.dpo.train.loss_weights=null"]}  # its loss is then ln 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stages", nargs="*", choices=list(EXPECTED), default=list(EXPECTED))
    parser.add_argument("--results", type=Path, default=RESULTS / f"first_loss-{datetime.now():%Y-%m-%d}.json")
    options = parser.parse_args()
    found: dict[str, dict[str, dict]] = {stage: {} for stage in options.stages}
    with tempfile.TemporaryDirectory(prefix="first-loss-") as scratch:
        folder = Path(scratch) / "runs-here"
        begin(folder)
        for stage in options.stages:
            for way, (overrides, stages) in WAYS.items():
                if stage in stages:
                    found[stage][way] = first_step(folder, stage, [*OWN.get(stage, ()), *overrides])
                    console.print(f"{stage}, {way}: {found[stage][way]}", soft_wrap=True)
    wrong = judged(found)
    show(found)
    options.results.write_text(json.dumps(told(found, wrong), indent=1) + "\n")
    console.print(str(options.results))
    sys.exit(bool(wrong))


def first_step(folder: Path, stage: str, overrides: list[str]) -> dict:
    """The figure of the first step, or why there is none."""
    one = [f"stages.{stage}.train.max_steps=1"] if stage != "ppo" else []
    sets = [*SHORT, *one, f"stages.{stage}.train.logging_steps=1", *overrides]
    words = [word for pair in sets for word in ("--set", pair.format(stage=stage))]
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "pipeline.cli", "run", stage, "-r", "tiny.yaml", *words, "--fresh"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        return {"code": done.returncode, "said": " ".join((done.stdout + done.stderr).split())[-400:]}
    newest = max(attempts(folder, stage), key=lambda attempt: (attempt / "manifest.json").stat().st_mtime)
    line = next(line for line in map(json.loads, (newest / "log.jsonl").read_text().splitlines()) if "loss" in line)
    name, _ = EXPECTED[stage]
    backend = json.loads((newest / "manifest.json").read_text())["run"]["backend"]
    return {"figure": name, "value": line[name], "backend": backend}


def judged(found: dict[str, dict[str, dict]]) -> list[str]:
    """Adds to each value how far it is off; returns those that are too far, or that failed without being refused."""
    wrong = []
    for stage, ways in found.items():
        for way, one in ways.items():
            expected, like = EXPECTED[stage][1], "all weights" if way.startswith("all") else "LoRA"
            if expected is None and way != like:
                expected = ways[like].get("value")
            if "value" in one and expected is not None:
                one |= {"expected": expected, "off": abs(one["value"] - expected)}
            if one.get("off", 0) > TOLERANCE or one.get("code", 2) != 2:
                wrong.append(f"{stage}, {way}")
    return wrong


def told(found: dict[str, dict[str, dict]], wrong: list[str]) -> dict:
    versions = {"python": sys.version.split()[0]}
    for name in ("torch", "transformers", "trl", "peft", "unsloth", "unsloth_zoo"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": versions,
        "cores": CORES,
        "recipe": "recipes/tiny.yaml",
        "overrides": SHORT,
        "tolerance": TOLERANCE,
        "wrong": wrong,
        "first_steps": found,
    }


def show(found: dict[str, dict[str, dict]]) -> None:
    table = new_table(f"The first step (tolerance {TOLERANCE:g})", ("", "figure", "expected", *WAYS))
    for stage, ways in found.items():
        name, expected = EXPECTED[stage]
        cells = [cell(ways.get(way)) for way in WAYS]
        table.add_row(stage, name, "the same" if expected is None else f"{expected:.6f}", *cells)
    console.print(table)
    reasons: dict[tuple[str, str], list[str]] = {}
    for stage, ways in found.items():
        for way, one in ways.items():
            if "said" in one:
                reasons.setdefault((way, one["said"].replace(stage, "...")), []).append(stage)
    for (way, said), stages in reasons.items():
        console.print(f"{', '.join(stages)}; {way}: {said}", soft_wrap=True)


def cell(one: dict | None) -> str:
    if one is None:
        return ""
    if "code" in one:
        return "refused" if one["code"] == 2 else "FAILED"
    return f"{one['value']:.6f}" + (f" ({one['off']:.0e})" if "off" in one else "")


if __name__ == "__main__":
    main()
