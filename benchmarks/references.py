"""DPO, first and again over the same pairs, and KTO, beside TRL's own trainers on the same work. See README.md."""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import median

from against_trl import CORES, PROJECT, console, environment_of, figures, in_own_process, keep, measure, write_rows
from rich.table import Table
from rollouts import LORA, SHAPE, random_adapter, random_base

PAIRS, BATCH = 96, 8
WORK = {
    "learning_rate": 1e-5,
    "per_device_train_batch_size": BATCH,
    "num_train_epochs": 1,
    "logging_steps": 1,
    "disable_dropout": True,
    "max_length": 256,
}
# Each side's runs of one repeat; `beta` of the second is another, so that it trains something else over the same rows.
OURS = {"dpo": ("dpo", 0.1), "dpo again": ("dpo", 0.2), "kto": ("kto", 0.1)}
TRL = {"dpo": "DPO", "kto": "KTO"}
GOALS = {
    "DPO again / the first": ("ours dpo again", "ours dpo", 0.7),
    "DPO / TRL's": ("ours dpo", "trl dpo", None),
    "DPO again / TRL's": ("ours dpo again", "trl dpo", None),
    "KTO / TRL's": ("ours kto", "trl kto", 1.05),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=CORES)
    options = parser.parse_args()
    runs: dict[str, list[dict]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        world = Path(scratch)
        in_own_process(prepare, world, options.threads)
        for repeat in range(options.repeats):
            sides = [*(f"trl {stage}" for stage in TRL), *(f"ours {name}" for name in OURS)]
            # "again" needs the first before it; TRL's come before ours, and after them in the next repeat.
            for side in sides if repeat % 2 == 0 else [*sides[len(TRL) :], *sides[: len(TRL)]]:
                environment = environment_of(world, f"{side.replace(' ', '-')}-{repeat}")
                done = measure(command(side, repeat), world, environment | {"OMP_NUM_THREADS": str(options.threads)})
                said = told(world, side, repeat)
                found = figures(done) | said | {"seconds": done.seconds, "training_seconds": said["seconds"]}
                runs.setdefault(side, []).append(found)
                console.print(f"{repeat + 1}/{options.repeats}  {side:<16} {found}")
    show(runs, options.threads)


def prepare(world: Path, threads: int) -> None:
    """A base and an SFT adapter with random weights, pairs, and each answer of a pair as a labeled row."""
    pairs = [json.loads(line) for line in (PROJECT / "data/tiny/pairs.jsonl").read_text().splitlines()]
    # As long as people's prompts and answers are: four of the tiny world's behind each other.
    pairs = [
        {name: " ".join(pair[name] for pair in pairs[start : start + 4]) for name in ("prompt", "chosen", "rejected")}
        for start in range(0, 4 * PAIRS, 4)
    ]
    base, words = random_base(world, (text for pair in pairs for text in pair.values()))
    random_adapter(base, words, world / "sft", task_type="CAUSAL_LM")
    labeled = [
        {"prompt": pair["prompt"], "completion": pair[side], "label": side == "chosen"}
        for number, pair in enumerate(pairs)
        for side in [("chosen", "rejected")[number % 2]]
    ]
    write_rows(world / "dpo.jsonl", pairs)
    write_rows(world / "kto.jsonl", labeled)
    stages = {
        stage: {
            "policy": str(world / "sft"),
            "data": {"path": f"{stage}.jsonl", "held_out": 0},
            "train": WORK | {"save_strategy": "no"},
        }
        for stage in TRL
    }
    recipe = {"model": {"id": str(world / "base")}, "adapter": LORA, "threads": threads, "stages": stages}
    (world / "ours.yaml").write_text(json.dumps(recipe))
    (world / "trl_side.py").write_text(TRL_SCRIPT.replace("WORK", repr(WORK)))


# As TRL's documentation has it: an adapter that is trained on, the reference a frozen copy of it that TRL makes.
TRL_SCRIPT = """
import sys, time
import trl
from datasets import load_dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

stage, kind = sys.argv[1:]
config, trainer = f"{kind}Config", f"{kind}Trainer"
args = getattr(trl, config)(output_dir="trl-out", use_cpu=True, bf16=False, gradient_checkpointing=False,
                            report_to="none", save_strategy="no", seed=42, beta=0.1, **WORK)
trainer = getattr(trl, trainer)(
    model=PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("base"), "sft", is_trainable=True), args=args,
    train_dataset=load_dataset("json", data_files=f"{stage}.jsonl", split="train"),
    processing_class=AutoTokenizer.from_pretrained("base"),
)
started = time.monotonic()
trainer.train()
seconds = time.monotonic() - started
trainer.save_model("trl-out")
open(f"trl-{stage}.json", "w").write(f'{{"seconds": {seconds}, "steps": {trainer.state.global_step}}}')
"""


def command(side: str, repeat: int) -> list[str]:
    who, _, name = side.partition(" ")
    if who == "trl":
        return [sys.executable, "trl_side.py", name, TRL[name]]
    stage, beta = OURS[name]
    runs = ["-r", "ours.yaml", "--runs", f"runs-{repeat}", "--set", f"stages.{stage}.train.beta={beta}"]
    return [sys.executable, "-m", "pipeline.cli", "run", stage, *runs]


def told(world: Path, side: str, repeat: int) -> dict:
    """The steps, the seconds of the training, and (ours) those of all that is around it."""
    who, _, name = side.partition(" ")
    if who == "trl":
        return json.loads((world / f"trl-{name}.json").read_text())
    attempts = world.glob(f"runs-{repeat}/ours/{OURS[name][0]}/*/manifest.json")
    said = json.loads(max(attempts, key=lambda file: file.stat().st_mtime).read_text())
    seconds = said["seconds"]
    return {
        "steps": said["steps"],
        "seconds": seconds["training"],
        "around": round(seconds["in all"] - seconds["training"], 2),
    }


def step_seconds(runs: dict[str, list[dict]], side: str) -> list[float]:
    """Of one step, run by run. What the reference says of all rows is computed before the first step: DPO's first run
    has its share of that, which is what was around its training and is not around that of the second.
    """
    ahead = [0.0] * len(runs[side])
    if side == "ours dpo":
        ahead = [one["around"] - two["around"] for one, two in zip(runs[side], runs["ours dpo again"], strict=True)]
    return [(run["training_seconds"] + more) / run["steps"] for run, more in zip(runs[side], ahead, strict=True)]


def show(runs: dict[str, list[dict]], threads: int) -> None:
    steps = {side: step_seconds(runs, side) for side in runs}
    table = Table(box=None)
    for heading in ("", "seconds a step", "MiB"):
        table.add_column(heading, justify="right" if heading else "left")
    for side, done in runs.items():
        table.add_row(side, f"{median(steps[side]):.2f}", f"{median(run['peak_mib'] for run in done):.0f}")
    console.print(table)
    ratios = {}
    for what, (mine, theirs, goal) in GOALS.items():
        ratios[what] = {
            "step_seconds": [round(a / b, 3) for a, b in zip(steps[mine], steps[theirs], strict=True)],
            "peak_mib": [
                round(a["peak_mib"] / b["peak_mib"], 3) for a, b in zip(runs[mine], runs[theirs], strict=True)
            ],
            "goal": goal,
        }
        console.print(what, ratios[what])
    told = {"shape": SHAPE, "lora": LORA, "work": WORK, "pairs": PAIRS, "threads": threads}
    keep("references", **told, runs=runs, step_seconds=steps, ratios=ratios)


if __name__ == "__main__":
    main()
