"""Whole processes side by side: `align run sft dpo` and TRL's own CLI, in turn, on the same rows. See README.md."""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

PROJECT = Path(__file__).resolve().parents[1]
REAL, TINY = PROJECT.parent / "shared", PROJECT / "data/tiny"
RESULTS = Path(__file__).parent / "results"
PROGRAMS = Path(sys.executable).parent
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

STAGES = {"sft": "conversation", "dpo": "preference"}
LEARNING_RATES = {"sft": 2e-4, "dpo": 5e-6}
LORA = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": "all-linear"}
TRAIN = {
    "per_device_train_batch_size": 8,
    "num_train_epochs": 1,
    "max_length": 512,
    "logging_steps": 10,
    "logging_first_step": True,
}
HELD_OUT = 0.02
TIMES_QUICK = 3  # of each command that has nothing to train

console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=160, color_system=None)


@dataclass(frozen=True)
class Variant:
    """One way of doing the whole work. `threads` is OMP_NUM_THREADS for TRL, the recipe's `threads` for ours."""

    name: str
    words: str
    run: Callable[["Variant", Path, str], dict]
    threads: int | None = None
    passive: bool = False
    batches: str | None = None


@dataclass(frozen=True)
class Comparison:
    words: str
    ours: str
    trl: str
    goals: tuple[float | None, float | None] = (None, None)  # at most: time, memory


@dataclass(frozen=True)
class Process:
    """`cpu_seconds` are of the process and all that it started; `peak_mib` is of the largest one of them."""

    seconds: float
    cpu_seconds: float
    peak_mib: float
    marks: dict[str, float]
    output: str


def variants(threads: int) -> list[Variant]:
    """In the order in which one repeat runs them; the next repeat runs them backwards."""
    same = f"{threads} thread" + "s" * (threads > 1)
    return [
        Variant("trl", f"TRL's CLI, {same}", run_trl, threads),
        Variant("ours-alike", f"ours, {same}, batches in random order", run_ours, threads, batches="random"),
        Variant("ours", "ours, as it comes: all cores, batches by length", run_ours),
        Variant("trl-all-cores", "TRL's CLI, all cores", run_trl, CORES),
        Variant("trl-all-cores-passive", "TRL's CLI, all cores, OMP_WAIT_POLICY=PASSIVE", run_trl, CORES, passive=True),
    ]


COMPARISONS = (
    Comparison("the same threads and batches", "ours-alike", "trl", (None, 1.1)),
    Comparison("our defaults against TRL's", "ours", "trl", (0.7, 1.1)),
    Comparison("our defaults against TRL on all cores", "ours", "trl-all-cores"),
    Comparison("... with threads that wait passively", "ours", "trl-all-cores-passive"),
)
QUICK = {
    "align run sft dpo, nothing to do": (["run", *STAGES], 1.5),
    "align plan": (["plan"], 1.0),
    "align status": (["status"], 1.0),
}


# -- the two sides -----------------------------------------------------------------------------------


def run_trl(variant: Variant, world: Path, number: str) -> dict:
    """`trl sft`, a merge, `trl dpo`, as TRL's documentation has its users do it."""
    environment = environment_of(world, number) | {"OMP_NUM_THREADS": str(variant.threads)}
    if variant.passive:
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
    result, model = {}, "base"
    for stage in STAGES:
        output = f"trl-{number}-{stage}"
        process = measure(trl_command(stage, model, output), world, environment, {"first step": r"'loss': "})
        result[stage] = figures(process) | {
            "first_step_seconds": process.marks["first step"],
            "train_loss": last_printed("train_loss", process.output),
            "trained_tokens": int(last_printed("num_tokens", process.output)),
        }
        if stage == "sft":
            # Given the SFT adapter's folder, trl dpo 1.14.2 ends in "Should have a model_type key in its config.json".
            # The merge that its users then do by a script of their own is not counted: it is no command of TRL.
            model, started = f"trl-{number}-merged", time.perf_counter()
            in_own_process(merge, world / output, world / model)
            result["merge_seconds_not_counted"] = round(time.perf_counter() - started, 2)
    return result | whole([result[stage] for stage in STAGES])


def trl_command(stage: str, model: str, output: str) -> list[str]:
    options = {
        "model_name_or_path": model,
        "dataset_name": f"trl-{stage}",
        "output_dir": output,
        "learning_rate": LEARNING_RATES[stage],
        "use_peft": True,
        "lora_r": LORA["r"],
        "lora_alpha": LORA["lora_alpha"],
        "lora_dropout": LORA["lora_dropout"],
        "lora_target_modules": LORA["target_modules"],
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        **TRAIN,
    }
    return [
        str(PROGRAMS / "trl"),
        stage,
        *(text for key, value in options.items() for text in (f"--{key}", str(value))),
    ]


def run_ours(variant: Variant, world: Path, number: str) -> dict:
    name = f"ours-{number}"
    recipe = {
        "name": name,
        "model": {"id": "./base", "template": "plain"},
        "threads": variant.threads,
        "adapter": LORA,
        "train": TRAIN | ({"train_sampling_strategy": variant.batches} if variant.batches else {}),
        "stages": {
            stage: {
                "data": {"path": f"{stage}.jsonl", "held_out": f"{stage}_held_out.jsonl"},
                "train": {"learning_rate": LEARNING_RATES[stage]},
            }
            for stage in STAGES
        },
    }
    (world / f"{name}.yaml").write_text(json.dumps(recipe))  # JSON is YAML
    environment = environment_of(world, number)
    begins = {f"{stage} begins": rf"^{stage}  run: " for stage in STAGES}
    steps = {f"{stage} first step": rf"^  {stage} 1/" for stage in STAGES}
    process = measure(align(name, "run", *STAGES), world, environment, begins | steps)
    result = {stage: stage_figures(world / runs_of(name) / name / stage / "latest") for stage in STAGES}
    for stage, of_stage in result.items():
        start = 0.0 if stage == "sft" else process.marks[f"{stage} begins"]
        of_stage["first_step_seconds"] = round(process.marks[f"{stage} first step"] - start, 2)
    if variant.name == "ours":
        result["quick_seconds"] = {
            words: [measure(align(name, *command), world, environment).seconds for _ in range(TIMES_QUICK)]
            for words, (command, _) in QUICK.items()
        }
    return result | figures(process)


def align(name: str, *command: str) -> list[str]:
    return [str(PROGRAMS / "align"), *command, "--recipe", f"{name}.yaml", "--runs", runs_of(name)]


def runs_of(name: str) -> str:
    """Each run has a folder of its own: the rows that another has prepared are not there."""
    return f"runs-{name}"


def stage_figures(folder: Path) -> dict:
    manifest = json.loads((folder / "manifest.json").read_text())
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {
        "seconds": manifest["seconds"]["in all"],
        "train_loss": round(log[-1]["train_loss"], 4),
        "trained_tokens": int(max(line.get("num_tokens", 0) for line in log)),
        "held_out": {when: manifest["metrics"][when] for when in ("before", "after")},
    }


def last_printed(name: str, output: str) -> float:
    """The last value of a figure that TRL printed, with the four digits that it prints."""
    return float(re.findall(rf"'{name}': '([^']+)'", output)[-1])


# -- measuring ---------------------------------------------------------------------------------------


def environment_of(world: Path, number: str) -> dict[str, str]:
    """No network, no thread settings from outside, and a cache of its own: nothing tokenized earlier is found again."""
    outside = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "MKL_", "HF_"))}
    home = str(world / f"cache-{number}")
    return outside | {"HF_HOME": home, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}


def measure(command: list[str], folder: Path, environment: dict, marks: dict[str, str] | None = None) -> Process:
    """Run to the end; `marks` are moments by name, and what a line shows when they have come."""
    started, seen, lines = time.perf_counter(), {}, []
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    for line in process.stdout:
        lines.append(line)
        for name, pattern in (marks or {}).items():
            if name not in seen and re.search(pattern, line):
                seen[name] = round(time.perf_counter() - started, 2)
    _, status, usage = os.wait4(process.pid, 0)  # its own figures and those of all that it waited for
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    output = "".join(lines)
    if process.returncode or len(seen) < len(marks or {}):
        sys.exit(f"{output[-4000:]}\n{' '.join(command)}: code {process.returncode}, seen {seen} of {marks}")
    kib = usage.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return Process(round(seconds, 2), round(usage.ru_utime + usage.ru_stime, 2), round(kib / 1024, 1), seen, output)


def figures(process: Process) -> dict:
    return {key: getattr(process, key) for key in ("seconds", "cpu_seconds", "peak_mib")}


def whole(stages: Sequence[dict]) -> dict:
    add = {key: round(sum(stage[key] for stage in stages), 2) for key in ("seconds", "cpu_seconds")}
    return add | {"peak_mib": max(stage["peak_mib"] for stage in stages)}


def install(environment: Path, *packages: str) -> None:
    """With pip, into an environment of its own, which is made where it is not there."""
    python = environment / "bin/python"
    if not python.is_file():
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages], check=True)


def keep(name: str, **found: object) -> None:
    """Into `results/`, with the date and the load that the machine has after it."""
    when = {"date": datetime.now().astimezone().isoformat(timespec="seconds"), "load_after": os.getloadavg()}
    file = RESULTS / f"{name}-{datetime.now():%Y-%m-%d}.json"
    file.write_text(json.dumps(when | found, indent=1) + "\n")
    console.print(str(file.relative_to(PROJECT)))


def in_own_process(function: Callable, *arguments: object) -> object:
    """This process stays small: a child's peak memory starts from that of the process that started it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=quietly) as pool:
        return pool.submit(function, *arguments).result()


def quietly() -> None:
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


# -- the work: in processes of their own, which may import torch -------------------------------------


def prepare(world: Path, limit: int | None) -> dict:
    """Base, rows and held-out rows for our side, the same rows as plain text for TRL's. Returns what they are."""
    from transformers import AutoTokenizer
    from trl import DPOTrainer, SFTTrainer  # noqa: F401 - read once, so that the first run finds the files in memory

    from pipeline.data.prepare.work import good_rows
    from pipeline.data.source import Data
    from pipeline.data.tokens.template import Template
    from pipeline.data.tokens.template_files import named

    real = REAL.is_dir()
    sources = {
        "sft": (REAL / "data/instruct/alpaca_en_demo.json", REAL / "data/instruct/code_alpaca_2k.json"),
        "dpo": (REAL / "data/pref/tinystories_shuffle_pairs.jsonl", REAL / "data/pref/imdb_sentiment_pairs.jsonl"),
    } if real else {
        "sft": (TINY / "sft.jsonl", TINY / "sft_held_out.jsonl"),
        "dpo": (TINY / "pairs.jsonl", TINY / "pairs_held_out.jsonl"),
    }  # fmt: skip
    good = {
        stage: [list(good_rows(Data(path=str(source)), kind)) for source in sources[stage]]
        for stage, kind in STAGES.items()
    }
    make_base(world / "base", (one.prompt for _, one in good["sft"][0]), real)
    tokenizer = AutoTokenizer.from_pretrained(world / "base")
    tokenizer.chat_template = named("plain")
    rows = {}
    for stage, (trained, held_out) in good.items():
        taken = trained[:limit]
        write_rows(world / f"{stage}.jsonl", [row.value for row, _ in taken])
        few = held_out[: max(round(HELD_OUT * len(taken)), 1)]
        write_rows(world / f"{stage}_held_out.jsonl", [row.value for row, _ in few])
        texts = [as_text(one, Template(tokenizer)) for _, one in taken]
        (world / f"trl-{stage}").mkdir()
        write_rows(world / f"trl-{stage}/train.jsonl", texts)
        rows[stage] = {
            "trained": len(taken),
            "held_out": len(few),
            "rows_whose_tokens_differ": different_tokens([one for _, one in taken], texts, tokenizer, STAGES[stage]),
        }
    return {"data": "real" if real else "data/tiny", "base": "stories260K" if real else "random", "rows": rows}


def make_base(folder: Path, texts, real: bool) -> None:
    """The small pretrained Llama with the pad token that TRL needs, or a random one of its size."""
    if real:
        folder.mkdir()
        for file in (REAL / "models/stories260K-hf").iterdir():
            shutil.copyfile(file, folder / file.name)
        config = folder / "tokenizer_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"pad_token": "<unk>"}))
        return
    from transformers import LlamaConfig, LlamaForCausalLM, set_seed

    from pipeline.model import tokenizer

    trained = tokenizer.train(texts, 512)
    trained.save_pretrained(folder)
    set_seed(42)
    shape = {"hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 5, "max_position_embeddings": 512}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4, "tie_word_embeddings": True}
    ids = {f"{name}_token_id": getattr(trained, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(trained), **shape, **heads, **ids)).save_pretrained(folder)


def as_text(example, template) -> dict:
    """A row as TRL takes it: plain text, to which its tokenizer adds BOS (where it does so at all) and TRL adds EOS."""
    tokenizer = template.tokenizer
    adds_bos = tokenizer("a").input_ids[0] == tokenizer.bos_token_id
    answers = {"chosen": example.chosen, "rejected": example.rejected} if hasattr(example, "chosen") else {}
    asked = example.messages if answers else example.messages[:-1]
    prompt = template.render(asked, ask=True)
    row = {"prompt": prompt.removeprefix(tokenizer.bos_token) if adds_bos else prompt}
    for name, answer in (answers or {"completion": example.messages[-1]["content"]}).items():
        text = template.render([*asked, {"role": "assistant", "content": answer}])
        assert text.startswith(prompt) and text.endswith(tokenizer.eos_token)
        row[name] = text[len(prompt) :].removesuffix(tokenizer.eos_token)
    return row


def different_tokens(examples, texts: Sequence[dict], tokenizer, kind: str) -> int:
    """Rows whose tokens before the cut to max_length are not the same on both sides, token by token."""
    from pipeline.data.shapes.kinds import KINDS
    from pipeline.data.tokens.encoder import Encoder

    encoded = Encoder(tokenizer).encode(examples, KINDS[kind])
    columns = [{name: ids.tolist() for name, ids in one.pieces[0].items()} for one in encoded]
    different = 0
    for row, ours in zip(texts, columns, strict=True):
        prompt, *answers = row.values()
        theirs = [tokenizer(prompt + answer + tokenizer.eos_token).input_ids for answer in answers]
        if kind == "conversation":
            mine = [ours["input_ids"]]
        else:
            mine = [ours["prompt_ids"] + ours[side] for side in ("chosen_ids", "rejected_ids")]
        different += theirs != mine
    return different


def write_rows(path: Path, rows: Sequence[dict]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def merge(adapter: Path, into: Path) -> None:
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    named = Path(PeftConfig.from_pretrained(adapter).base_model_name_or_path)
    base = AutoModelForCausalLM.from_pretrained(adapter.parent / named)  # named as it was given: relative
    PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(into)
    AutoTokenizer.from_pretrained(adapter).save_pretrained(into)


# -- the report --------------------------------------------------------------------------------------


def summary(runs: dict[str, list[dict]]) -> dict:
    """Medians of each variant, and of the ratios pair by pair: both halves of a pair are of the same repeat."""
    keys = ("seconds", "cpu_seconds", "peak_mib")
    medians = {name: {key: median(run[key] for run in done) for key in keys} for name, done in runs.items()}
    ratios = {}
    for pair in COMPARISONS:
        if runs.keys() >= {pair.ours, pair.trl}:
            both = list(zip(runs[pair.ours], runs[pair.trl], strict=True))
            by_pair = {key: [round(ours[key] / trl[key], 3) for ours, trl in both] for key in keys}
            ratios[pair.words] = asdict(pair) | {"pairs": by_pair, "median": {k: median(v) for k, v in by_pair.items()}}
    quick = {
        words: {"seconds": median(s for run in runs["ours"] for s in run["quick_seconds"][words]), "goal": goal}
        for words, (_, goal) in QUICK.items()
        if "ours" in runs
    }
    return {"medians": medians, "ratios": ratios, "quick": quick}


def show(kinds: Sequence[Variant], runs: dict[str, list[dict]], found: dict) -> None:
    headings = ("", "seconds", "CPU s", "peak MiB", "to step 1: sft", "dpo", "loss: sft", "dpo", "tokens: sft", "dpo")
    table = new_table("Medians (whole processes)", headings)
    for kind in kinds:
        row, done = found["medians"][kind.name], runs[kind.name]
        each = [
            f"{median(run[stage][key] for run in done):{form}}"
            for key, form in (("first_step_seconds", ".1f"), ("train_loss", ".4f"), ("trained_tokens", ",.0f"))
            for stage in STAGES
        ]
        table.add_row(kind.words, f"{row['seconds']:.1f}", f"{row['cpu_seconds']:.1f}", f"{row['peak_mib']:.0f}", *each)
    console.print(table)
    table = new_table("Ours / TRL", ("", "time", "goal", "pair by pair", "peak", "goal", "CPU"))
    for words, row in found["ratios"].items():
        time_goal, peak_goal = row["goals"]
        middle, pairs = row["median"], " ".join(f"{ratio:.2f}" for ratio in row["pairs"]["seconds"])
        peak = f"{middle['peak_mib']:.2f}"
        table.add_row(
            words, f"{middle['seconds']:.2f}", goal(time_goal), pairs, peak, goal(peak_goal), f"{middle['cpu_seconds']:.2f}"
        )  # fmt: skip
    console.print(table)
    if found["quick"]:
        table = new_table("With nothing to train", ("", "seconds", "goal"))
        for words, row in found["quick"].items():
            table.add_row(words, f"{row['seconds']:.2f}", goal(row["goal"]))
        console.print(table)


def new_table(title: str, headings: Sequence[str]) -> Table:
    table = Table(title=f"\n{title}", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    return table


def goal(value: float | None) -> str:
    return "" if value is None else f"<= {value}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="how often each variant is run (3)")
    parser.add_argument("--threads", type=int, default=1, help="of both sides where they have the same (1)")
    parser.add_argument("--rows", type=int, help="at most so many rows a stage: a quick look")
    parser.add_argument("--only", action="append", choices=[one.name for one in variants(1)], help="may be repeated")
    options = parser.parse_args()
    kinds = [one for one in variants(options.threads) if not options.only or one.name in options.only]
    began, load = datetime.now().astimezone(), os.getloadavg()
    runs: dict[str, list[dict]] = {one.name: [] for one in kinds}
    with tempfile.TemporaryDirectory(prefix="against-trl-") as folder:
        world = Path(folder)
        work = in_own_process(prepare, world, options.rows)
        console.print(f"{work['base']} base, {work['rows']}", soft_wrap=True)
        for repeat in range(options.repeats):
            for kind in kinds if repeat % 2 == 0 else reversed(kinds):  # a machine that slows down wrongs neither side
                before = os.getloadavg()[0]
                result = kind.run(kind, world, f"{kind.name}-{repeat + 1}")
                runs[kind.name].append({"load_before": round(before, 2)} | result)
                console.print(f"{repeat + 1}/{options.repeats}  {result['seconds']:7.1f} s  {kind.words}")
    found = summary(runs)
    show(kinds, runs, found)
    names = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "tokenizers")
    report = {
        "date": began.isoformat(timespec="seconds"),
        "machine": {"cores": CORES, "system": platform.system(), "processor": platform.machine(), "load_before": load},
        "versions": {"python": platform.python_version()} | {name: version(name) for name in names},
        "work": work | {"train": TRAIN, "learning_rates": LEARNING_RATES, "lora": LORA},
        "variants": {
            one.name: {"words": one.words, "threads": one.threads or CORES, "passive": one.passive} for one in kinds
        },
        **found,
        "runs": runs,
    }
    RESULTS.mkdir(exist_ok=True)
    shortened = f"-{options.rows}-rows" if options.rows else ""
    file = RESULTS / f"against_trl-{began:%Y-%m-%d}{shortened}.json"
    file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    console.print(f"\n{file.relative_to(PROJECT)}")


if __name__ == "__main__":
    main()
