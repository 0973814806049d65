"""Every stage on data that nobody wrote for this project, on a Llama of 260 thousand parameters that was really pretrained:
what each of them learns in a few dozen steps. The data lie beside the project and are no part of it. See README.md.
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

from against_trl import CORES, PROJECT, REAL, RESULTS, console, new_table

DATA = REAL / "data"
HELD_OUT = 60  # pairs of reviews
STORIES = {"path": str(DATA / "prompts/tinystories_prompts.jsonl"), "held_out": 0.2}
RECIPE = {
    "name": "real",
    "model": {"id": str(REAL / "models/stories260K-hf")},
    "adapter": {"r": 8, "lora_alpha": 16},
    "threads": 1,
    "train": {"per_device_train_batch_size": 16, "max_steps": 48, "logging_steps": 12, "learning_rate": 1e-3},
    "evaluation": {"max_new_tokens": 48, "max_rows": 100},
    "stages": {
        "sft": {
            "data": {"path": str(DATA / "instruct/alpaca_en_demo.json"), "held_out": 0.1},
            "train": {"max_length": 256},
        },
        "reward": {
            "data": {"path": str(DATA / "pref/tinystories_shuffle_pairs.jsonl"), "held_out": 0.15},
            "train": {"max_length": 256},
        },
        "dpo": {
            "data": {"path": "reviews.jsonl", "held_out": "reviews_held_out.jsonl"},  # all of them ask the same
            "train": {"max_length": 256, "learning_rate": 3e-4},
        },
        "kto": {
            "data": {"path": str(DATA / "pref/kto_en_demo.json"), "held_out": 0.2},
            "train": {"max_length": 384, "learning_rate": 3e-4, "per_device_train_batch_size": 8},
        },
        "orpo": {
            "data": {"path": str(DATA / "pref/dpo_en_demo.json"), "held_out": 0.2},
            "train": {"max_length": 384, "per_device_train_batch_size": 8},
        },
        "simpo": {
            "data": {
                "path": str(DATA / "pref/hh_harmless_test_0000-1155.jsonl"), "held_out": 0.1, "on_bad_row": "drop"
            },
            "train": {"max_length": 384, "learning_rate": 3e-4, "per_device_train_batch_size": 8},
        },
        "grpo": {
            "data": {"path": str(DATA / "prompts/gsm8k_test.jsonl"), "held_out": 0.1},
            "reward_functions": {"right": "number", "digits": {"function": "format", "pattern": r"\d", "weight": 0.5}},
            "train": {"max_completion_length": 48, "num_generations": 8, "per_device_train_batch_size": 32, "beta": 0.05},
        },
        "rloo": {
            "data": STORIES,
            "reward": "reward",
            "reward_functions": {"fresh": {"function": "non_repetition", "n": 3}},
            "train": {"max_completion_length": 48, "num_generations": 4, "per_device_train_batch_size": 32},
        },
        "ppo": {
            "data": STORIES,
            "train": {
                "response_length": 48, "num_mini_batches": 2, "num_ppo_epochs": 2, "total_episodes": 768,
                "learning_rate": 3e-4, "value_learning_rate": 2e-3,
            },
        },
    },
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, help="keep what is trained in this folder")
    parser.add_argument("--results", type=Path, default=RESULTS / f"real_data-{datetime.now():%Y-%m-%d}.json")
    options = parser.parse_args()
    if not DATA.is_dir():
        sys.exit(f"{DATA} is not there: this benchmark has no other data.")
    with tempfile.TemporaryDirectory(prefix="real-data-") as scratch:
        folder = (options.runs or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "real.yaml").write_text(json.dumps(RECIPE, indent=1))
        reviews = (DATA / "pref/imdb_sentiment_pairs.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        for name, some in (("reviews", reviews[HELD_OUT:]), ("reviews_held_out", reviews[:HELD_OUT])):
            (folder / f"{name}.jsonl").write_text("".join(some), encoding="utf-8")
        said = run(folder)
        found = {stage: of_stage(folder, stage) for stage in RECIPE["stages"]}
    show(found)
    told = {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": {
            "python": sys.version.split()[0],
            **{name: version(name) for name in ("torch", "transformers", "trl", "peft")},
        },
        "cores": CORES,
        "recipe": RECIPE,
        "stages": found,
        "notes": [line.strip() for line in said.splitlines() if line.startswith("  note:")],
    }
    # Where the data lay on this machine is nobody's business.
    text = json.dumps(told, indent=1, ensure_ascii=False).replace(f"{REAL}/", "")
    options.results.write_text(text + "\n")
    console.print(str(options.results))


def run(folder: Path) -> str:
    """All stages by one command; what it says is shown as it comes."""
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "pipeline.cli", "run", "-r", "real.yaml", "--no-unsloth"]
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    lines = []
    for line in process.stdout:
        console.print(line.rstrip("\n"), soft_wrap=True, markup=False)
        lines.append(line)
    if code := process.wait():
        sys.exit(code)
    return "".join(lines)


def of_stage(folder: Path, stage: str) -> dict:
    manifest = json.loads((folder / "runs/real" / stage / "latest/manifest.json").read_text())
    kept = ("metrics", "steps", "tokens", "seconds", "samples")
    return {"rows": manifest["data"]["rows"]} | {key: manifest[key] for key in kept}


def show(found: dict[str, dict]) -> None:
    table = new_table("Before and after", ("", "figure", "before", "after", "held-out rows"))
    for stage, one in found.items():
        before, after = one["metrics"]["before"], one["metrics"]["after"]
        names = [name for name in after if name not in ("n", "n_tokens", "n_wanted", "reward_deviation")]
        for name in names:
            was = f"{before[name]:.3f}" if name in before else "-"
            rows = "" if name == "kl" else str(after["n"])
            table.add_row(stage if name == names[0] else "", name, was, f"{after[name]:.3f}", rows)
    console.print(table)


if __name__ == "__main__":
    main()
