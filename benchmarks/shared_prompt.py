"""DPO with each pair's prompt run once, run twice, and TRL's own trainer, in turn on the same real pairs. See README.md."""

import argparse
import json
import re
import sys
import tempfile
from pathlib import Path
from statistics import median

from against_trl import (
    CORES,
    REAL,
    as_text,
    console,
    different_tokens,
    environment_of,
    figures,
    in_own_process,
    keep,
    measure,
    write_rows,
)
from rich.table import Table
from rollouts import LORA, random_adapter

PAIRS = {"hh": "hh_harmless_test_0000-1155.jsonl", "dpo_en": "dpo_en_demo.json"}
# By millions of parameters with minimind's 6400 tokens.
SHAPES = {
    20: {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 6},
    80: {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 11, "num_attention_heads": 12},
}
WORK = {
    "learning_rate": 1e-5,
    "per_device_train_batch_size": 4,
    "logging_steps": 1,
    "disable_dropout": True,
    "max_length": 1024,
    "num_train_epochs": 1,
    "save_strategy": "no",
}
# Ours are each run again over the same pairs with another beta: the reference's sums are then kept.
SIDES = ("trl", "twice", "once")
GOALS = {
    "hh": {"once, the first / trl": 0.7, "once, again / trl": 0.5},
    "dpo_en": {"once, the first / trl": 0.85, "once, again / trl": 0.65},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, default=96, help="pairs of each data set that are trained on")
    parser.add_argument("--size", type=int, choices=SHAPES, default=80, help="millions of parameters")
    parser.add_argument("--threads", type=int, default=CORES)
    parser.add_argument("--only", choices=PAIRS, action="append", help="may be repeated")
    options = parser.parse_args()
    runs: dict[str, dict[str, list[dict]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        world = Path(scratch)
        parameters = in_own_process(prepare, world, options.size, options.rows, options.threads)
        console.print(f"a random Llama of {parameters / 1e6:.0f} million parameters, {options.threads} threads")
        for repeat in range(options.repeats):
            for data in options.only or PAIRS:
                for side in SIDES if repeat % 2 == 0 else reversed(SIDES):
                    for done in one(world, data, side, repeat, options.threads):
                        runs.setdefault(data, {}).setdefault(done.pop("side"), []).append(done)
                        console.print(f"{repeat + 1}/{options.repeats}  {data:<7} {side:<6} {done}")
            ratios = {data: compared(data, found) for data, found in runs.items()}
            told = {"parameters": parameters, "shape": SHAPES[options.size], "lora": LORA, "work": WORK}
            keep("shared_prompt", **told, rows=options.rows, threads=options.threads, runs=runs, ratios=ratios)
    show(runs, ratios)


def prepare(world: Path, size: int, rows: int, threads: int) -> int:
    """A random base and SFT adapter, and the first pairs of each data set that fit, as text for TRL and as rows for us."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, set_seed

    from pipeline.data.prepare.work import good_rows
    from pipeline.data.source import Data
    from pipeline.data.tokens.template import Template
    from pipeline.data.tokens.template_files import named

    words = AutoTokenizer.from_pretrained(REAL / "data/tokenizers/minimind")
    words.chat_template = named("plain")
    set_seed(0)
    ids = {f"{name}_token_id": getattr(words, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    more = {"max_position_embeddings": 2048, "tie_word_embeddings": True}
    base = LlamaForCausalLM(LlamaConfig(vocab_size=len(words), **SHAPES[size], **more, **ids))
    base.save_pretrained(world / "base")
    words.save_pretrained(world / "base")
    parameters = base.num_parameters()
    random_adapter(base, words, world / "sft", task_type="CAUSAL_LM")
    stages = {}
    for data, file in PAIRS.items():
        mine, theirs, examples = [], [], []
        for row, example in good_rows(Data(path=str(REAL / "data/pref" / file)), "preference"):
            text = as_text(example, Template(words))
            sides = [len(words(text["prompt"] + text[side]).input_ids) for side in ("chosen", "rejected")]
            if max(sides) < WORK["max_length"]:
                mine.append(row.value)
                theirs.append(text)
                examples.append(example)
            if len(mine) == rows:
                break
        console.print(
            data,
            f"{len(mine)} pairs,",
            different_tokens(examples, theirs, words, "preference"),
            "of them with other tokens at TRL",
        )
        write_rows(world / f"{data}.jsonl", mine)
        write_rows(world / f"trl-{data}.jsonl", theirs)
        stages[data] = {"policy": str(world / "sft"), "data": {"path": f"{data}.jsonl", "held_out": 0}, "train": WORK}
    for data, stage in stages.items():
        recipe = {"model": {"id": str(world / "base"), "template": "plain"}, "adapter": LORA, "threads": threads}
        (world / f"{data}.yaml").write_text(json.dumps(recipe | {"stages": {"dpo": stage}}))
    (world / "trl_side.py").write_text(TRL_SCRIPT.replace("WORK", repr(WORK)))
    return parameters


def one(world: Path, data: str, side: str, repeat: int, threads: int) -> list[dict]:
    """What one side needed: TRL's one run, or ours of the first time over these pairs and of the second."""
    environment = environment_of(world, f"{data}-{side}-{repeat}") | {"OMP_NUM_THREADS": str(threads)}
    if side == "trl":
        done = measure([sys.executable, "trl_side.py", data], world, environment)
        return [{"side": "trl"} | figures(done) | json.loads((world / f"trl-{data}.json").read_text())]
    found, runs = [], f"runs-{side}-{repeat}"
    for which, beta in (("the first", 0.1), ("again", 0.2)):
        changes = {"share_prompt": str(side == "once").lower(), "train.beta": beta}
        sets = [word for key, value in changes.items() for word in ("--set", f"stages.dpo.{key}={value}")]
        command = [sys.executable, "-m", "pipeline.cli", "run", "dpo", "-r", f"{data}.yaml", "--runs", runs, *sets]
        done = measure(command, world, environment)
        manifest = max(world.glob(f"{runs}/{data}/dpo/*/manifest.json"), key=lambda file: file.stat().st_mtime)
        said = json.loads(manifest.read_text())
        log = (manifest.parent / "stage.log").read_text()
        around = said["seconds"]["in all"] - said["seconds"]["training"]
        told = {"training": said["seconds"]["training"], "steps": said["steps"], "around": round(around, 2)}
        saved = re.search(r"share_prompt: .*", log)
        found.append({"side": f"{side}, {which}"} | figures(done) | told | {"said": saved and saved.group()})
    # The reference's sums are computed before the first step: the first run has its share of that.
    found[0]["training"] += max(found[0]["around"] - found[1]["around"], 0.0)
    return found


# As TRL's documentation has it: an adapter that is trained on, the reference a frozen copy of it that TRL makes.
TRL_SCRIPT = """
import json, sys, time
import trl
from datasets import load_dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

data = sys.argv[1]
args = trl.DPOConfig(output_dir="trl-out", use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
                     seed=42, beta=0.1, **WORK)
trainer = trl.DPOTrainer(
    model=PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("base"), "sft", is_trainable=True), args=args,
    train_dataset=load_dataset("json", data_files=f"trl-{data}.jsonl", split="train"),
    processing_class=AutoTokenizer.from_pretrained("base"),
)
started = time.monotonic()
trainer.train()
said = {"training": time.monotonic() - started, "steps": trainer.state.global_step}
open(f"trl-{data}.json", "w").write(json.dumps(said))
"""


def compared(data: str, runs: dict[str, list[dict]]) -> dict:
    """Seconds of a step, pair by pair, and the most memory."""
    pairs = {f"once, {which} / twice, {which}": None for which in ("the first", "again")}
    pairs |= {f"{side}, {which} / trl": None for side in ("twice", "once") for which in ("the first", "again")}
    ratios = {}
    for what, goal in (pairs | GOALS[data]).items():
        mine, theirs = (runs[side] for side in what.split(" / "))
        by_pair = {
            key: [round(a[key] / b[key], 3) for a, b in zip(mine, theirs, strict=True)]
            for key in ("training", "cpu_seconds", "peak_mib")
        }
        ratios[what] = by_pair | {"goal": goal}
    return ratios


def show(runs: dict, ratios: dict) -> None:
    for data, sides in runs.items():
        table = Table(box=None, title=data, title_justify="left")
        for heading in ("", "seconds a step", "CPU s in all", "MiB"):
            table.add_column(heading, justify="right" if heading else "left")
        for side, done in sides.items():
            step = median(run["training"] / run["steps"] for run in done)
            more = (f"{median(run[key] for run in done):.0f}" for key in ("cpu_seconds", "peak_mib"))
            table.add_row(side, f"{step:.2f}", *more)
        console.print(table)
        for what, found in ratios[data].items():
            console.print(f"{what}: {found}")


if __name__ == "__main__":
    main()
