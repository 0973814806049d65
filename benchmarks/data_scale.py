"""Chat rows by the million, read, checked, split, tokenized and kept: speed, memory, and LLaMA-Factory. See README.md."""

import argparse
import json
import platform
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median

from against_trl import (
    CORES,
    PROJECT,
    REAL,
    RESULTS,
    TINY,
    console,
    environment_of,
    figures,
    in_own_process,
    install,
    measure,
)
from rich.table import Table

FACTORY_ENVIRONMENT = PROJECT / ".venv-llamafactory"
FACTORY = "llamafactory==0.9.5"
# What it needs to prepare rows of text; all that it asks for is gigabytes more.
FACTORY_PACKAGES = """torch==2.13.0 transformers==5.6.0 datasets==4.0.0 accelerate==1.11.0 peft==0.18.1 trl==0.24.0
    torchdata==0.11.0 tyro<0.9 av<=16 pydantic pyyaml safetensors scipy sentencepiece tiktoken fire omegaconf
    matplotlib einops pandas hf-transfer pillow""".split()
MAX_LENGTH, HELD_OUT = 1024, 0.05
GOALS = {"rows a second, against LLaMA-Factory's": 2.0, "memory of all processes, MiB": 2048}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument(
        "--cores", type=int, nargs="+", default=sorted({1, CORES}), help="threads of ours, its processes"
    )
    parser.add_argument("--repeats", type=int, default=3, help="pairs with LLaMA-Factory, at each of --pairs")
    parser.add_argument(
        "--pairs", type=int, nargs="*", default=[100_000], help="rows at which to run it; none: leave it out"
    )
    options = parser.parse_args()
    if options.pairs:
        make_environment()
    runs = []
    with tempfile.TemporaryDirectory() as scratch:
        world = Path(scratch)
        text = in_own_process(prepare, world)
        for rows in sorted({*options.rows, *options.pairs}):
            file = world / f"{rows}.jsonl"
            write_chats(file, rows)
            console.print(f"{rows:,} rows, {file.stat().st_size / 2**20:,.0f} MiB of {text}")
            for repeat in range(options.repeats if rows in options.pairs else 1):
                for cores in options.cores:
                    sides = (ours, factory) if rows in options.pairs else (ours,)
                    for side in sides if repeat % 2 == 0 else reversed(sides):
                        done = side(world, file, cores, f"{side.__name__}-{len(runs)}")
                        runs.append({"side": side.__name__, "rows": rows, "cores": cores} | done)
                        console.print(
                            f"  {side.__name__:<8} {cores} cores  {done['seconds']:7.1f} s  "
                            f"{rows / done['seconds']:7,.0f} rows/s  {done['peak_of_all_mib']:6,.0f} MiB"
                        )
            file.unlink()
    show(runs, text)


# -- the two sides -----------------------------------------------------------------------------------


def ours(world: Path, file: Path, cores: int, name: str) -> dict:
    """As a stage does it; then once more, to see what it costs where the rows are there."""
    command = [sys.executable, __file__, "--here", str(file), str(world / "tokenizer"), name, str(cores)]
    first = watched(command, world, name, cores)
    again = json.loads(measure(command, world, environment_of(world, name)).output.splitlines()[-1])
    kept = sum(part.stat().st_size for part in (world / name).rglob("*") if part.is_file())
    shutil.rmtree(world / name)
    return first | {"seconds_again": again["seconds"], "kept_mib": round(kept / 2**20)}


def here(file: str, tokenizer: str, runs: str, threads: str) -> None:
    """Prepare the rows in this process."""
    from transformers import AutoTokenizer

    from pipeline.artifact.digests import file_sha256
    from pipeline.data.prepare.account import refuse_bad_rows
    from pipeline.data.prepare.cache import prepared_once
    from pipeline.data.prepare.table import numbers
    from pipeline.data.source import Data
    from pipeline.data.tokens.encoder import Encoder

    encoder = Encoder(AutoTokenizer.from_pretrained(tokenizer), MAX_LENGTH)
    started = time.perf_counter()
    found = prepared_once(
        Data(path=file, held_out=HELD_OUT),
        "conversation",
        encoder,
        Path(runs),
        contents={"files": [file_sha256(Path(file))]},
        check=lambda account: refuse_bad_rows(account, "sft"),
        threads=int(threads),
        progress=lambda rows: None,
    )
    seconds = time.perf_counter() - started
    rows = found.account.summary()
    tokens = sum(int(numbers(side, "input_ids").sum()) for side in (found.trained, found.held_out))
    print(json.dumps({"seconds": round(seconds, 2), "tokens": tokens, "account": rows}))


def factory(world: Path, file: Path, cores: int, name: str) -> dict:
    (world / name).mkdir()
    (world / name / "rows.jsonl").symlink_to(file)
    (world / name / "dataset_info.json").write_text(json.dumps({"rows": FACTORY_ROWS}))
    (world / "factory.py").write_text(FACTORY_SCRIPT)
    (world / "stubs").mkdir(exist_ok=True)
    (world / "stubs/torchaudio.py").touch()
    settings = {
        "template": "chatml",
        "dataset": "rows",
        "dataset_dir": name,
        "cutoff_len": MAX_LENGTH,
        "val_size": HELD_OUT,
        "preprocessing_num_workers": cores if cores > 1 else None,
    }
    done = watched(
        [str(FACTORY_ENVIRONMENT / "bin/python"), "factory.py", str(world / "tokenizer"), json.dumps(settings)],
        world,
        name,
        cores,
    )
    shutil.rmtree(world / name)
    shutil.rmtree(world / f"cache-{name}")
    return done


FACTORY_ROWS = {
    "file_name": "rows.jsonl",
    "formatting": "sharegpt",
    "columns": {"messages": "messages"},
    "tags": {
        "role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant",
        "system_tag": "system",
    },
}  # fmt: skip
# Its own preparation, without its command line, which loads the model before the rows. Sound is not what it is about.
FACTORY_SCRIPT = """
import json, sys, time
from contextlib import contextmanager

sys.path.append("stubs")
from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import DataArguments, ModelArguments
from transformers import AutoTokenizer


class Arguments:
    seed, do_train, should_save, local_process_index, output_dir = 42, True, True, 0, "."
    predict_with_generate = do_eval = do_predict = should_log = False

    @contextmanager
    def main_process_first(self, **_):
        yield


folder, settings = sys.argv[1], json.loads(sys.argv[2])
tokenizer, data = AutoTokenizer.from_pretrained(folder), DataArguments(**settings)
template = get_template_and_fix_tokenizer(tokenizer, data)
started = time.perf_counter()
made = get_dataset(template, ModelArguments(model_name_or_path=folder), data, Arguments(), "sft", tokenizer)
seconds = time.perf_counter() - started
sides = [made["train_dataset"], made["eval_dataset"]]
tokens = sum(batch.column("input_ids").combine_chunks().flatten().__len__()
             for side in sides for batch in side.with_format("arrow").iter(10_000))
print(json.dumps({"seconds": round(seconds, 2), "tokens": tokens, "trained": len(sides[0]), "held_out": len(sides[1])}))
"""


def make_environment() -> None:
    """LLaMA-Factory wants other versions of everything."""
    install(FACTORY_ENVIRONMENT, *FACTORY_PACKAGES)
    install(FACTORY_ENVIRONMENT, "--no-deps", FACTORY)


# -- measuring ---------------------------------------------------------------------------------------


def watched(command: Sequence[str], world: Path, name: str, cores: int) -> dict:
    """What the command says, its whole time, and its memory: of the largest process, and of all at the same moment."""
    alone = {"TOKENIZERS_PARALLELISM": "false"} if cores == 1 else {}  # else a tokenizer takes all cores by itself
    with Watch() as watch:
        process = measure(list(command), world, environment_of(world, name) | alone)
    said = json.loads(process.output.splitlines()[-1])
    whole = {f"whole_{key}": value for key, value in figures(process).items()}
    return said | whole | {"peak_of_all_mib": round(watch.peak / 2**20)}


class Watch(threading.Thread):
    """The most memory that all processes below this one had together; what they share is counted once."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak, self._over = 0, threading.Event()

    def __enter__(self) -> "Watch":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        import psutil

        while not self._over.wait(0.25):
            now = 0
            for process in psutil.Process().children(recursive=True):
                try:
                    now += process.memory_full_info().pss
                except psutil.Error:  # it has ended
                    continue
            self.peak = max(self.peak, now)


# -- the work ----------------------------------------------------------------------------------------


def prepare(world: Path) -> str:
    """A tokenizer with a ChatML template, and the words of the chats. Returns what they are."""
    from transformers import AutoTokenizer

    from pipeline.data.tokens.template_files import named
    from pipeline.model import tokenizer

    file = REAL / "data/pretrain/c4_demo_000-199.jsonl" if REAL.is_dir() else TINY / "pretrain.jsonl"
    texts = [json.loads(line)["text"] for line in file.read_text(encoding="utf-8").splitlines()]
    if REAL.is_dir():
        words = AutoTokenizer.from_pretrained(REAL / "data/tokenizers/minimind")
    else:
        words = tokenizer.train(texts, 8000)
        words.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        words.eos_token = "<|im_end|>"
    words.chat_template = named("chatml")
    words.save_pretrained(world / "tokenizer")
    (world / "words.json").write_text(json.dumps(" ".join(texts).split()))
    return f"the words of {file.name} in a vocabulary of {len(words):,}"


def write_chats(file: Path, rows: int) -> None:
    """One to three turns each, every third with a system prompt, about 1.3 KB; no two ask the same."""
    rng, words = random.Random(0), json.loads((file.parent / "words.json").read_text())

    def said(length: int) -> str:
        start = rng.randrange(len(words) - length)
        return " ".join(words[start : start + length])

    with file.open("w", encoding="utf-8") as out:
        for number in range(rows):
            messages = [{"role": "system", "content": "You are a helpful assistant."}] if number % 3 == 0 else []
            for _ in range(rng.choice((1, 1, 2, 3))):
                messages.append({"role": "user", "content": f"{number}: {said(rng.randrange(10, 60))}"})
                messages.append({"role": "assistant", "content": said(rng.randrange(20, 150))})
            out.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")


# -- what is shown -----------------------------------------------------------------------------------


def show(runs: Sequence[dict], text: str) -> None:
    table = Table(title=f"rows prepared, {CORES} cores; {text}")
    for column in ("rows", "cores", "side", "seconds", "rows/s", "MiB, all", "again, s", "against LLaMA-Factory"):
        table.add_column(column, justify="left" if column == "side" else "right")
    for rows, cores, side in dict.fromkeys((one["rows"], one["cores"], one["side"]) for one in runs):
        mine = [one for one in runs if (one["rows"], one["cores"], one["side"]) == (rows, cores, side)]
        theirs = [one for one in runs if (one["rows"], one["cores"], one["side"]) == (rows, cores, "factory")]
        seconds = median(one["seconds"] for one in mine)
        pairs = (
            [b["seconds"] / a["seconds"] for a, b in zip(mine, theirs, strict=True)]
            if side == "ours" and theirs
            else []
        )
        table.add_row(
            f"{rows:,}", str(cores), side, f"{seconds:.1f}", f"{rows / seconds:,.0f}",
            f"{max(one['peak_of_all_mib'] for one in mine):,}",
            f"{median(one['seconds_again'] for one in mine):.1f}" if side == "ours" else "",
            ", ".join(f"{pair:.2f}" for pair in pairs),
        )  # fmt: skip
    console.print(table)
    console.print(f"goals: {GOALS}")
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"data_scale-{datetime.now():%Y-%m-%d}.json"
    versions = {name: version(name) for name in ("datasets", "pyarrow", "tokenizers", "transformers")}
    machine = {"cores": CORES, "system": platform.platform(), "python": platform.python_version()}
    said = {"text": text, "machine": machine, "ours": versions, "factory": [FACTORY, *FACTORY_PACKAGES], "runs": runs}
    file.write_text(json.dumps(said, indent=1) + "\n")
    console.print(f"written to {file.relative_to(PROJECT)}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--here"]:
        here(*sys.argv[2:])
    else:
        main()
