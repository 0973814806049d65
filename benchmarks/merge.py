"""What merging costs: a random model in the shape of Llama-3.2-1B with a LoRA, against copying the same bytes.

The process that merges is measured as a whole for its memory (`wait4`), and from opening the base to the last byte on
the disk for its time; both sides write through to the disk, in turn. Goals: at most three times the copy, and at most two
of the base's files in memory beyond what a process has that only opens it.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

PROJECT = Path(__file__).resolve().parents[1]
SHAPE = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 128256,
    "tie_word_embeddings": True,
}
MERGE = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from pipeline.model.base import Base
from pipeline.recipe.sections import Model
from pipeline.use.merge import write
from pipeline.use.subject import Subject
from pipeline.use.weights import Weights

base, adapter, to = sys.argv[2:5]
started = time.perf_counter()
weights = Weights(Subject("adapter", Path(adapter), Base(None, base), Model(id=base, dtype="bfloat16")), "bfloat16")
if len(sys.argv) == 5:
    write(weights, Path(to))
print(time.perf_counter() - started)
"""


def make(folder: Path, layers: int) -> None:
    """The base, in files of at most 1 GB, and a LoRA of rank 16 on all its linear layers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    sys.path.insert(0, str(PROJECT / "tests"))
    import small_models

    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **SHAPE | {"num_hidden_layers": layers})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder / "base", max_shard_size="1GB")
    adapted = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    adapted.peft_config["default"].base_model_name_or_path = str(folder / "base")
    adapted.save_pretrained(folder / "adapter", save_embedding_layers=False)
    small_models.tokenizer().save_pretrained(folder / "adapter")


def copied(base: Path, to: Path) -> float:
    """Seconds."""
    started = time.perf_counter()
    to.mkdir()
    for file in sorted(base.glob("*.safetensors")):
        with file.open("rb") as source, (to / file.name).open("wb") as out:
            shutil.copyfileobj(source, out, 16 << 20)
            out.flush()
            os.fsync(out.fileno())
    return time.perf_counter() - started


def merged(base: Path, adapter: Path, to: Path, *more: str) -> tuple[float, int]:
    """(seconds, peak bytes)"""
    to.mkdir()
    command = [sys.executable, "-c", MERGE, str(PROJECT), str(base), str(adapter), str(to), *more]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    seconds = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the merge failed: {command}")
    return float(seconds), usage.ru_maxrss * 1024


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--layers", type=int, default=SHAPE["num_hidden_layers"], help="fewer, for a quick look")
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--folder", type=Path, help="where about 8 GB are free; else the system's temporary folder")
    given = options.parse_args()
    with TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        # In a process of its own: a child's peak begins at what its parent has.
        making = multiprocessing.get_context("spawn").Process(target=make, args=(folder, given.layers))
        making.start()
        making.join()
        base, adapter = folder / "base", folder / "adapter"
        files = [file.stat().st_size for file in base.glob("*.safetensors")]
        _, idle = merged(base, adapter, folder / "nothing", "only opened")
        runs = []
        for _ in range(given.repeats):
            copy = copied(base, folder / "copy")
            seconds, peak = merged(base, adapter, folder / "merged")
            runs.append({"copy": copy, "merge": seconds, "ratio": seconds / copy, "peak": peak})
            for left in ("copy", "merged"):
                shutil.rmtree(folder / left)
    result = {
        "bytes": sum(files),
        "largest_file": max(files),
        "ratio": statistics.median(run["ratio"] for run in runs),
        "peak_beyond_opening": max(run["peak"] for run in runs) - idle,
        "files_in_memory": (max(run["peak"] for run in runs) - idle) / max(files),
        "load": os.getloadavg()[0],
        "runs": runs,
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
