"""SFT with one of the switches that are to make it faster, in turn with none: what each gives on this machine. See README.md."""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import median

from against_llamafactory import prepare
from against_trl import (
    LEARNING_RATES,
    LORA,
    PROGRAMS,
    REAL,
    TRAIN,
    console,
    environment_of,
    figures,
    in_own_process,
    keep,
    measure,
    new_table,
)

SWITCHES = {
    "as it comes": {},
    "batches in random order": {"train_sampling_strategy": "random"},
    "packing": {"packing": True},
    "padding_free": {"padding_free": True},
    "torch_compile": {"torch_compile": True},
    "gradient_checkpointing": {"gradient_checkpointing": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--rows", type=int, help="at most so many: a quick look")
    parser.add_argument("--only", choices=SWITCHES, action="append", help="may be repeated; all")
    options = parser.parse_args()
    if not REAL.is_dir():
        sys.exit("the real data beside the project are not there")
    switches = [one for one in SWITCHES if not options.only or one in options.only]
    runs: dict[str, list[dict]] = {one: [] for one in switches}
    with tempfile.TemporaryDirectory(prefix="switches-") as folder:
        world = Path(folder)
        work = in_own_process(prepare, world, "80m", options.rows)
        for repeat in range(options.repeats):
            for switch in switches if repeat % 2 == 0 else reversed(switches):
                runs[switch].append(one(world, switch, repeat))
                console.print(f"{repeat + 1}/{options.repeats}  {switch:<24} {runs[switch][-1]}")
    table = new_table("SFT, medians", ("", "seconds of training", "to plain", "in all", "MiB", "loss"))
    plain = runs.get("as it comes")
    for switch, done in runs.items():
        ratios = [round(a["training"] / b["training"], 2) for a, b in zip(done, plain or done, strict=True)]
        cells = (f"{median(each[key] for each in done):.1f}" for key in ("training", "seconds", "peak_mib"))
        training, whole, memory = cells
        table.add_row(switch, training, " ".join(map(str, ratios)), whole, memory, f"{done[0]['train_loss']:.3f}")
    console.print(table)
    keep("switches", work=work, lora=LORA, train=TRAIN, switches={name: SWITCHES[name] for name in switches}, runs=runs)


def one(world: Path, switch: str, repeat: int) -> dict:
    name = f"{switch.replace(' ', '-')}-{repeat}"
    stage = {"data": {"path": "sft.jsonl", "held_out": 0}}
    stage["train"] = {"learning_rate": LEARNING_RATES["sft"]} | SWITCHES[switch]
    recipe = {"name": name, "model": {"id": "./base", "template": "plain"}, "adapter": LORA, "train": TRAIN}
    (world / f"{name}.yaml").write_text(json.dumps(recipe | {"stages": {"sft": stage}}))
    command = [str(PROGRAMS / "align"), "run", "sft", "--recipe", f"{name}.yaml", "--runs", f"runs-{name}"]
    done = figures(measure(command, world, environment_of(world, name)))
    folder = world / f"runs-{name}" / name / "sft" / "latest"
    said = json.loads((folder / "manifest.json").read_text())
    last = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    told = {"training": said["seconds"]["training"], "tokens": said["tokens"], "steps": said["steps"]}
    return done | told | {"train_loss": round(last["train_loss"], 4)}


if __name__ == "__main__":
    main()
