"""`align run sft`, then `dpo`, and LLaMA-Factory's `train` on the same rows, in turn, as whole processes. See README.md."""

import argparse
import json
import os
import re
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

from against_trl import (
    CORES,
    HELD_OUT,
    LEARNING_RATES,
    LORA,
    PROGRAMS,
    REAL,
    STAGES,
    TRAIN,
    as_text,
    console,
    environment_of,
    figures,
    goal,
    in_own_process,
    keep,
    make_base,
    measure,
    new_table,
    stage_figures,
    write_rows,
)
from data_scale import FACTORY, FACTORY_ENVIRONMENT, make_environment
from shared_prompt import SHAPES

# A model, and how many rows of each stage it is given: a size at which starting counts, and one at which products do.
WORK = {"260k": {"sft": 999, "dpo": 600}, "80m": {"sft": 240, "dpo": 120}}
ROWS = {
    "sft": ("instruct/alpaca_en_demo.json", "instruct/code_alpaca_2k.json"),
    "dpo": ("pref/tinystories_shuffle_pairs.jsonl", "pref/imdb_sentiment_pairs.jsonl"),
}
# LLaMA-Factory computes activations a second time unless it is told not to; on a CPU we do not.
SIDES = {"factory": {}, "factory-keeps": {"disable_gradient_checkpointing": True}, "ours": {}}
WORDS = {
    "factory": "LLaMA-Factory, as it comes",
    "factory-keeps": "LLaMA-Factory, disable_gradient_checkpointing",
    "ours": "ours, as it comes",
}
GOAL = 0.5  # of its time, against either


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--size", choices=WORK, action="append", help="may be repeated; all")
    parser.add_argument("--only", choices=SIDES, action="append", help="may be repeated; all")
    parser.add_argument("--rows", type=int, help="at most so many rows a stage: a quick look")
    options = parser.parse_args()
    if not REAL.is_dir():
        sys.exit("the real data beside the project are not there")
    make_environment()
    sizes, sides = options.size or list(WORK), [side for side in SIDES if not options.only or side in options.only]
    runs: dict[str, dict[str, list[dict]]] = {}
    work, rates = {}, []
    with tempfile.TemporaryDirectory(prefix="against-llamafactory-") as folder:
        for size in sizes:
            world = Path(folder) / size
            world.mkdir()
            work[size] = in_own_process(prepare, world, size, options.rows)
            console.print(f"{size}: {work[size]}", soft_wrap=True)
            for repeat in range(options.repeats):
                rates.append(round(in_own_process(gflops_of_products), 1))
                console.print(f"matrix products of fp32: {rates[-1]} GFLOP/s")
                for side in sides if repeat % 2 == 0 else reversed(sides):
                    load = round(os.getloadavg()[0], 2)
                    done = (ours if side == "ours" else factory)(world, side, repeat)
                    for stage, of_stage in done.items():
                        of_stage["gflops"] = round(_operations(work[size], stage) / of_stage["training"] / 1e9, 1)
                    runs.setdefault(size, {}).setdefault(side, []).append({"load_before": load} | done)
                    told = {stage: (one["seconds"], one["training"], one["gflops"]) for stage, one in done.items()}
                    console.print(f"{repeat + 1}/{options.repeats}  {size}  {side:<14} {told}")
    found = {size: compared(of_size, median(rates)) for size, of_size in runs.items()}
    show(runs, found)
    told = {"llamafactory": FACTORY, "cores": CORES, "lora": LORA, "train": TRAIN, "learning_rates": LEARNING_RATES}
    keep("against_llamafactory", **told, work=work, gflops_of_products=rates, runs=runs, ratios=found)


def _operations(work: dict, stage: str) -> float:
    """2 for each weight and token in a forward pass, 4 with LoRA's backward pass, which needs the activations' gradients alone.

    DPO's reference is one forward pass more. Tokens are counted as each side is given them, a pair's prompt twice:
    what a side saves by running it once is to its credit.
    """
    return {"sft": 4, "dpo": 6}[stage] * work["parameters"] * work[stage]["tokens"]


# -- the two sides -----------------------------------------------------------------------------------


def ours(world: Path, side: str, repeat: int) -> dict:
    name = f"{side}-{repeat}"
    stages = {
        stage: {
            "data": {"path": f"{stage}.jsonl", "held_out": f"{stage}_held_out.jsonl"},
            "train": {"learning_rate": LEARNING_RATES[stage]},
        }
        for stage in STAGES
    }
    recipe = {"name": name, "model": {"id": "./base", "template": "plain"}, "adapter": LORA, "train": TRAIN}
    (world / f"{name}.yaml").write_text(json.dumps(recipe | {"stages": stages}))
    found = {}
    for stage in STAGES:
        command = [str(PROGRAMS / "align"), "run", stage, "--recipe", f"{name}.yaml", "--runs", f"runs-{name}"]
        process = measure(command, world, environment_of(world, name))
        folder = world / f"runs-{name}" / name / stage / "latest"
        told = stage_figures(folder)
        told["in all"] = told.pop("seconds")
        of_steps = json.loads((folder / "manifest.json").read_text())["seconds"]["training"]
        told["reference"] = _seconds_of("reference", (folder / "stage.log").read_text())  # it runs in the steps there
        told["training"] = of_steps + told["reference"]
        found[stage] = figures(process) | told
    return found


def _seconds_of(phase: str, log: str) -> int:
    """From when a stage's log says that it begins to when it says of another one: whole seconds."""
    said = re.findall(r"^(\d\d):(\d\d):(\d\d) (\w+)", log, re.MULTILINE)
    at = [(int(hours) * 3600 + int(minutes) * 60 + int(seconds), name) for hours, minutes, seconds, name in said]
    return sum((later - begun) % 86_400 for (begun, name), (later, _) in pairwise(at) if name == phase)


def factory(world: Path, side: str, repeat: int) -> dict:
    """Its second stage goes on with the first one's adapter, as its documentation has it; DPO's reference is then the base."""
    (world / "stubs").mkdir(exist_ok=True)
    (world / "stubs/torchaudio.py").touch()  # sound is not what it is about
    found: dict[str, dict] = {}
    for stage in STAGES:
        output = f"{side}-{repeat}-{stage}"
        settings = {
            "stage": stage, "do_train": True, "model_name_or_path": "base", "finetuning_type": "lora",
            "lora_rank": LORA["r"], "lora_alpha": LORA["lora_alpha"], "lora_dropout": LORA["lora_dropout"],
            "lora_target": "all", "dataset": stage, "dataset_dir": "factory", "template": "empty",
            "cutoff_len": TRAIN["max_length"], "output_dir": output, "learning_rate": LEARNING_RATES[stage],
            "report_to": "none", "include_num_input_tokens_seen": "non_padding", "use_cpu": True,
            **{key: value for key, value in TRAIN.items() if key != "max_length"},
            **SIDES[side],
        }  # fmt: skip
        if found:
            settings["adapter_name_or_path"] = f"{side}-{repeat}-sft"
        (world / f"{output}.yaml").write_text(json.dumps(settings))  # JSON is YAML
        environment = environment_of(world, output) | {"PYTHONPATH": "stubs"}
        program = FACTORY_ENVIRONMENT / "bin/llamafactory-cli"
        process = measure([str(program), "train", f"{output}.yaml"], world, environment)
        said = json.loads((world / output / "all_results.json").read_text())
        found[stage] = figures(process) | {
            "training": round(said["train_runtime"], 2),
            "train_loss": round(said["train_loss"], 4),
            "trained_tokens": json.loads((world / output / "trainer_state.json").read_text())["num_input_tokens_seen"],
        }
    return found


# -- the work: in processes of their own, which may import torch ---------------------------------------


def prepare(world: Path, size: str, limit: int | None) -> dict:
    """A base, rows and held-out rows for us, and the same rows as the text that our template makes of them for LLaMA-Factory."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, set_seed

    from pipeline.data.prepare.work import good_rows
    from pipeline.data.source import Data
    from pipeline.data.tokens.template import Template
    from pipeline.data.tokens.template_files import named

    if size == "260k":
        make_base(world / "base", (), real=True)
    else:
        words = AutoTokenizer.from_pretrained(REAL / "data/tokenizers/minimind")
        set_seed(0)
        ids = {f"{name}_token_id": getattr(words, f"{name}_token_id") for name in ("bos", "eos", "pad")}
        more = {"vocab_size": len(words), "max_position_embeddings": 2048, "tie_word_embeddings": True}
        LlamaForCausalLM(LlamaConfig(**SHAPES[80], **more, **ids)).save_pretrained(world / "base")
        words.save_pretrained(world / "base")
    tokenizer = AutoTokenizer.from_pretrained(world / "base")
    tokenizer.chat_template = named("plain")
    template = Template(tokenizer)
    (world / "factory").mkdir()
    told: dict = {"parameters": AutoModelForCausalLM.from_pretrained(world / "base").num_parameters()}
    for stage, kind in STAGES.items():
        trained, held_out = (list(good_rows(Data(path=str(REAL / "data" / file)), kind)) for file in ROWS[stage])
        taken = trained[: min(WORK[size][stage], limit or len(trained))]
        few = held_out[: max(round(HELD_OUT * len(taken)), 1)]
        write_rows(world / f"{stage}.jsonl", [row.value for row, _ in taken])
        write_rows(world / f"{stage}_held_out.jsonl", [row.value for row, _ in few])
        texts = [as_text(one, template) for _, one in taken]
        for text in texts:  # an empty template ends nothing
            for answer in text.keys() - {"prompt"}:
                text[answer] += tokenizer.eos_token
        write_rows(world / f"factory/{stage}.jsonl", texts)
        whole = [text["prompt"] + text[answer] for text in texts for answer in text if answer != "prompt"]
        lengths = [min(len(tokenizer(text).input_ids), TRAIN["max_length"]) for text in whole]
        told[stage] = {"trained": len(taken), "held_out": len(few), "tokens": sum(lengths)}
    columns = {"sft": {"prompt": "prompt", "response": "completion"}}
    columns["dpo"] = {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}
    info = {
        stage: {"file_name": f"{stage}.jsonl", "columns": columns[stage], "ranking": stage == "dpo"} for stage in STAGES
    }
    (world / "factory/dataset_info.json").write_text(json.dumps(info))
    return told


def gflops_of_products(seconds: float = 3.0, side: int = 2048) -> float:
    """What torch's fp32 matrix products do on all cores, 10^9 operations a second: the best of them."""
    import torch

    one, other = torch.rand(side, side), torch.rand(side, side)
    best, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        begun = time.perf_counter()
        torch.mm(one, other)
        best = min(best, time.perf_counter() - begun)
    return 2 * side**3 / best / 1e9


# -- the report --------------------------------------------------------------------------------------


def compared(runs: dict[str, list[dict]], rate: float) -> dict:
    """Ratios pair by pair: both halves of a pair are of the same repeat."""
    ratios: dict = {}
    for other in (side for side in runs if side != "ours" and "ours" in runs):
        pairs = list(zip(runs["ours"], runs[other], strict=True))
        for stage in STAGES:
            by_pair = {
                key: [round(mine[stage][key] / theirs[stage][key], 3) for mine, theirs in pairs]
                for key in ("seconds", "training", "cpu_seconds", "peak_mib")
            }
            ratios[f"{stage}, ours / {other}"] = by_pair | {"goal": GOAL}
    for side, done in runs.items():
        for stage in STAGES:
            share = median(run[stage]["gflops"] for run in done) / rate
            ratios[f"{stage}, {side} / the rate of matrix products"] = round(share, 3)
    return ratios


def show(runs: dict, found: dict) -> None:
    for size, sides in runs.items():
        headings = ("", *(f"{stage}: {what}" for stage in STAGES for what in ("s", "training", "CPU s", "MiB", "loss")))
        table = new_table(f"{size}: medians (whole processes)", headings)
        for side, done in sides.items():
            cells = [
                f"{median(run[stage][key] for run in done):{form}}"
                for stage in STAGES
                for key, form in (
                    ("seconds", ".1f"), ("training", ".1f"), ("cpu_seconds", ".0f"), ("peak_mib", ".0f"), ("train_loss", ".3f")
                )
            ]  # fmt: skip
            table.add_row(WORDS[side], *cells)
        console.print(table)
        for what, ratio in found[size].items():
            told = ratio if isinstance(ratio, float) else f"{ratio['seconds']} ({goal(ratio['goal'])})"
            console.print(f"  {what}: {told}")


if __name__ == "__main__":
    main()
