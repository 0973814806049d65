"""Every stage of the embedded default by one process and by two, on this machine's CPU: what differs, and what it costs.
See README.md.
"""

import argparse
import json
import tempfile
from datetime import datetime
from pathlib import Path

import kills
from against_trl import RESULTS, console, new_table
from safetensors.torch import load_file

from pipeline.recipe.launch import DIVIDING, SHARDING
from pipeline.stage import specs

SAMPLED = ("grpo", "rloo", "ppo")  # each process answers its own prompts: other responses than one process has
THREADS = "threads=1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--strategy", default="ddp", help="what each of them holds; fsdp trains fewer stages")
    parser.add_argument("--stages", nargs="*", choices=list(kills.PARENTS))
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    parts = options.strategy in DIVIDING
    stages = options.stages or [stage for stage in kills.PARENTS if specs()[stage].in_parts or not parts]
    name = f"{options.strategy if parts else 'processes'}-{datetime.now():%Y-%m-%d}.json"
    shared = [
        *kills.SHORT,
        THREADS,
        *(f"stages.{stage}.train.gradient_accumulation_steps=2" for stage in kills.PARENTS),
    ]
    if parts:  # a pair's prompt is run once where nothing is divided: the same computation for both
        shared += [f"stages.{stage}.share_prompt=false" for stage in stages if specs()[stage].shares_prompt]
    with tempfile.TemporaryDirectory(prefix="processes-") as scratch:
        folders = []
        for number in (1, options.processes):
            several = [f"launch.strategy={options.strategy}"] if number > 1 else []
            kills.SHORT[:] = [*shared, f"launch.processes={number}", *several]
            folders.append(Path(scratch) / str(number))
            kills.begin(folders[-1])
            kills.align(folders[-1], *stages)
        rows = {
            stage: compared(*folders, stage) for stage in kills.PARENTS if (folders[0] / "runs/tiny" / stage).is_dir()
        }
    show(rows)
    how = {"overrides": shared, "processes": options.processes, "strategy": options.strategy}
    results = options.results or RESULTS / name
    results.write_text(json.dumps(kills.surroundings() | how | {"stages": rows}, indent=1) + "\n")
    console.print(str(results))


def compared(one: Path, other: Path, stage: str) -> dict:
    single, several = (kills.manifest(folder, stage) for folder in (one, other))
    logs = [kills.lines(kills.attempts(folder, stage)[0]) for folder in (one, other)]
    losses = [abs(a["loss"] - b["loss"]) for a, b in zip(*logs, strict=True) if "loss" in a]
    weights = [
        load_file(next((kills.attempts(folder, stage)[0] / single["output"]).glob("*.safetensors")))
        for folder in (one, other)
    ]
    distance = max(float((weights[0][name] - weights[1][name]).abs().max()) for name in weights[0])
    trained = sum(tensor.numel() for tensor in weights[0].values())
    n, base = several["run"]["processes"], 0
    if several["run"]["strategy"] in SHARDING:
        base = sum(file.stat().st_size for file in (kills.attempts(one, "pretrain")[0] / "model").glob("*.safetensors"))
    return {
        "largest difference of a loss": None if stage in SAMPLED else max(losses),
        "largest difference of a weight": None if stage in SAMPLED else distance,
        "same fingerprint": single["fingerprint"] == several["fingerprint"],
        "tokens": [single["tokens"], several["tokens"]],
        "seconds": [made["seconds"]["training"] for made in (single, several)],
        "peak of the first process, bytes": [made["peak_bytes"]["host"] for made in (single, several)],
        # A ring, reckoned: each process sends and receives (n - 1) / n of what is gathered, or added up and dealt out. Gradients
        # (fp32) are both in each step, and weights that lie in parts are gathered before the forward and the backward of a pass.
        "bytes exchanged a step and process, reckoned": round((trained * 4 * 2 + base * 2) * (n - 1) / n),
    }


def show(rows: dict[str, dict]) -> None:
    table = new_table(
        "One process and several: the same steps", ["stage", "loss", "weights", "time", "peak", "exchanged"]
    )
    for stage, row in rows.items():
        seconds, peak = row["seconds"], row["peak of the first process, bytes"]
        differs = [row[f"largest difference of a {what}"] for what in ("loss", "weight")]
        table.add_row(
            stage,
            *("sampled" if one is None else f"{one:.1e}" for one in differs),
            f"{seconds[1] / seconds[0]:.2f}",
            f"{peak[1] / peak[0]:.2f}",
            f"{row['bytes exchanged a step and process, reckoned'] / 1e6:.2f} MB",
        )
    console.print(table)


if __name__ == "__main__":
    main()
