"""Every method of tuning through sft, reward, dpo, ppo and grpo, a few steps each, on a model and data of yours: what each
stage learned, and what is refused with its reason. See README.md.

What is done already is found again, so that it may be stopped and given again at any time.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from against_trl import CORES, PROJECT, RESULTS, console, new_table
from methods import TIMES_LORA

from pipeline.model.adapters import METHODS, NAMED

RATES = {"sft": 1e-3, "reward": 1e-3, "dpo": 3e-4, "ppo": 3e-4, "grpo": 3e-4}  # LoRA's; see methods.py for the others'
STAGES = tuple(RATES)
FIRST = {
    "sft": "loss",
    "reward": "reward_accuracy",
    "dpo": "loss",
    "ppo": "mean_reward",
    "grpo": "mean_reward",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a model's folder")
    parser.add_argument("--answers", type=Path, required=True, help="rows for sft")
    parser.add_argument("--pairs", type=Path, required=True, help="rows for reward and dpo")
    parser.add_argument("--prompts", type=Path, required=True, help="rows for ppo and grpo")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(NAMED))
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--steps", type=int, default=48, help="of sft, reward and dpo; of ppo and grpo half as many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS / f"families-{datetime.now():%Y-%m-%d}.json")
    options = parser.parse_args()
    given = {key: getattr(options, key).resolve() for key in ("model", "answers", "pairs", "prompts")}
    if gone := [str(path) for path in given.values() if not path.exists()]:
        sys.exit(f"{', '.join(gone)}: no such file or folder.")
    told = json.loads(options.results.read_text()) if options.results.is_file() else {}
    recipe = recipe_of(given, options.steps, options.seed)
    recipe["stages"] = {stage: recipe["stages"][stage] for stage in options.stages}
    # Where model and data lay is nobody's business.
    shown = json.loads(without_folders(json.dumps(recipe), given))
    if told.get("recipe", shown) != shown:
        sys.exit(f"{options.results}: is of another model, of other data or of another number of steps.")
    families = told.get("families", {})
    for name in options.methods:
        if name in families:
            continue
        families[name] = family(recipe, name, given)
        about = {"date": datetime.now().astimezone().isoformat(timespec="seconds"), "versions": versions()}
        told = about | {"cores": CORES, "recipe": shown, "times_lora": TIMES_LORA, "families": families}
        options.results.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")
        console.print(f"{name}: {json.dumps(brief(families[name]))}", soft_wrap=True, markup=False)
    show(families)
    console.print(str(options.results))


def recipe_of(given: dict[str, Path], steps: int, seed: int) -> dict:
    """The same for every method, but for the method and its learning rates."""
    pairs = {"path": str(given["pairs"]), "held_out": 0.15}
    prompts = {"path": str(given["prompts"]), "held_out": 0.2}
    sampling = {"per_device_train_batch_size": 16}
    return {
        "name": "families",
        "seed": seed,
        "model": {"id": str(given["model"])},
        "threads": 1,
        "train": {"per_device_train_batch_size": 16, "logging_steps": 10},
        "evaluation": {"max_new_tokens": 32, "max_rows": 40, "earlier_stages": False},
        "stages": {
            "sft": {
                "data": {"path": str(given["answers"]), "held_out": 0.1},
                "train": {"max_steps": steps, "max_length": 192},
            },
            "reward": {"data": pairs, "train": {"max_steps": steps, "max_length": 192}},
            "dpo": {"data": pairs, "train": {"max_steps": steps, "max_length": 192}},
            "ppo": {
                "data": prompts,
                "train": sampling
                | {
                    "response_length": 32,
                    "num_mini_batches": 1,
                    "num_ppo_epochs": 2,
                    "total_episodes": steps // 4 * 16,  # two steps a rollout
                    "value_learning_rate": 2e-3,
                },
            },
            "grpo": {
                "data": prompts,
                # About a third of what such a model samples has it, so that the samples of a prompt differ in their reward.
                "reward_functions": {"person": {"function": "format", "pattern": r"\b([Hh]e|[Ss]he|[Tt]hey)\b"}},
                "train": sampling | {"max_steps": steps // 2, "max_completion_length": 32, "num_generations": 4},
            },
        },
    }


def family(recipe: dict, name: str, given: dict[str, Path]) -> dict:
    """What one method did in each stage, or why not."""
    recipe = json.loads(json.dumps(recipe)) | {"adapter": {"method": name}}
    for stage, one in recipe["stages"].items():
        one["train"]["learning_rate"] = RATES[stage] * TIMES_LORA.get(name, 1)
    found = {}
    with tempfile.TemporaryDirectory(prefix="families-") as scratch:
        folder = Path(scratch)
        (folder / "families.yaml").write_text(json.dumps(recipe, indent=1))
        counted = json.loads(align(folder, "methods", name, "--json").stdout)[0]
        stages = recipe["stages"]
        asked = {stage: align(folder, "plan", stage) for stage in stages}
        refused = {stage: why_not(done, given) for stage, done in asked.items() if done.returncode}
        done = align(folder, "run", *(stage for stage in stages if stage not in refused), "--no-unsloth")
        for stage in stages:
            kept = [*(folder / "runs/families" / stage).glob("*/manifest.json")]
            found[stage] = of_stage(kept[0].parent) if kept else refused.get(stage) or why_not(done, given)
    return {"trained": counted["trained"], "share": counted["share"], "stages": found}


def align(folder: Path, *words: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "HF_HUB_OFFLINE": "1"}
    line = [sys.executable, "-m", "pipeline.cli", *words, "-r", "families.yaml"]
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True)


def of_stage(folder: Path) -> dict:
    """Without samples: the rows are not ours to show."""
    manifest = json.loads((folder / "manifest.json").read_text())
    weights = sum(file.stat().st_size for file in (folder / manifest["output"]).glob("*.safetensors"))
    kept = ("metrics", "steps", "tokens", "seconds", "peak_bytes")
    logged = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    losses = [round(one["loss"], 4) for one in logged if "loss" in one]
    return {key: manifest[key] for key in kept} | {"losses": losses, "weights_bytes": weights}


def why_not(done: subprocess.CompletedProcess, given: dict[str, Path]) -> dict:
    """2 is a refusal, before anything is loaded; what else ends it is a failure."""
    said = without_folders(" ".join(done.stderr.split()) or " ".join(done.stdout.split())[-500:], given)
    return {
        "refused" if done.returncode == 2 else "failed": said.removeprefix("error: ").removeprefix("families.yaml: ")
    }


def without_folders(text: str, given: dict[str, Path]) -> str:
    for path in given.values():
        text = text.replace(str(path), path.name)
    return text


def versions() -> dict[str, str]:
    names = ("torch", "transformers", "trl", "peft")
    return {"python": sys.version.split()[0], **{name: version(name) for name in names}}


def brief(one: dict) -> dict[str, str]:
    """Each stage by what it is first judged by."""
    return {stage: first(stage, found) for stage, found in one["stages"].items()}


def first(stage: str, found: dict) -> str:
    if "metrics" not in found:
        return next(iter(found))
    before, after = (found["metrics"][when].get(FIRST[stage]) for when in ("before", "after"))
    return " to ".join("-" if value is None else f"{value:.3f}" for value in (before, after))


def show(families: dict[str, dict]) -> None:
    stages = next(iter(families.values()))["stages"]
    table = new_table(
        "Before and after (held-out rows)", ("", "trained", *(f"{stage}: {FIRST[stage]}" for stage in stages))
    )
    for name, one in families.items():
        table.add_row(name, f"{one['trained'] or 0:,}", *brief(one).values())
    console.print(table)
    for name, one in families.items():
        for stage, found in one["stages"].items():
            if "metrics" not in found:
                console.print(f"{name}, {stage}: {next(iter(found.values()))}", soft_wrap=True, markup=False)


if __name__ == "__main__":
    main()
