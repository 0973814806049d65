"""Every method of tuning on the tiny world: SFT, then DPO from what that left, for some seeds. See README.md.

What is done already is found again, so that it may be stopped and given again at any time.
"""

import argparse
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from statistics import mean

from against_trl import CORES, PROJECT, RESULTS, console, new_table

from pipeline.model.adapters import METHODS, NAMED

# The recipe's own learning rates are LoRA's, ten times those that LoRA has on a large model. Those of the others are taken from
# what their authors used beside LoRA, or beside full tuning; this was written before any of them was measured.
TIMES_LORA = {
    # A tenth of LoRA's: Biderman et al., 2024 (LoRA learns less and forgets less); Schulman, 2025 (LoRA without regret).
    "full": 0.1,
    "freeze": 0.1,
    "ia3": 10,  # Liu et al., 2022: 3e-3, where LoRA has 2e-4 to 5e-4
    "vera": 10,  # Kopiczko et al., 2024: 4e-3 for LLaMA, beside 4e-4 for LoRA
    # Zhao et al., 2023, and Ben Zaken et al., 2022: vectors of the model's own want tens of times full tuning's.
    "ln_tuning": 5,
    "bitfit": 5,
    "prefix": 15,  # Liu et al., 2022 (P-tuning v2): 5e-3 to 2e-2 where nothing computes the prefix; PEFT's examples 1e-2
    "prompt": 15,  # Lester et al., 2021: 0.3 with Adafactor; PEFT's examples 3e-2
}  # the others, 1: LoRA's own, as in their papers

SETTINGS = {"lora": {"r": 32, "lora_alpha": 64}}  # the recipe's; the others are as they come
# What the base of the recipe lacks: BitFit trains biases, and this Llama has none. Its base is pretrained with some.
BASES = {"bitfit": ["model.config.attention_bias=true", "model.config.mlp_bias=true"]}
STAGES = ("sft", "dpo")
RATES = {"sft": 2e-3, "dpo": 5e-4}  # recipes/tiny.yaml
FIGURES = {"sft": ("exact_match",), "dpo": ("preference_accuracy", "win_rate", "exact_match")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(NAMED))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--factor", type=float, default=1, help="of every learning rate: whether another one serves better"
    )
    parser.add_argument("--runs", type=Path, default=PROJECT / "runs/benchmark/methods")
    parser.add_argument("--results", type=Path, default=RESULTS / "methods.json")
    parser.add_argument("--picture", action="store_true", help="draw what there is, and train nothing")
    options = parser.parse_args()
    cells = json.loads(options.results.read_text())["cells"] if options.results.is_file() else []
    for seed in () if options.picture else options.seeds:
        for name in options.methods:
            which = {"method": name, "seed": seed, "factor": options.factor}
            if any(which.items() <= one.items() for one in cells):
                continue
            base = [f"seed={seed}", *BASES.get(name, [])]
            runs = options.runs.resolve() / (f"seed-{seed}" + (f"-{name}" if name in BASES else ""))
            if (done := align("run", ["pretrain"], runs, base)).returncode:
                sys.exit(done.stdout + done.stderr)
            cells.append(which | {"trained": parameters(runs, name, base)} | cell(runs, name, base, options.factor))
            options.results.write_text(json.dumps(report(cells), indent=1) + "\n")
            console.print(f"{which}: {cells[-1]}", soft_wrap=True, markup=False)
    show(cells)
    draw([row for row in summary(cells) if row["factor"] == 1], options.results.with_suffix(".png"))


def align(command: str, words: list[str], runs: Path, sets: list[str]) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "HF_HUB_OFFLINE": "1"}
    line = [sys.executable, "-m", "pipeline.cli", command, *words, "-r", "recipes/tiny.yaml", "--runs", str(runs)]
    line += [word for one in sets for word in ("--set", one)]
    return subprocess.run(line, cwd=PROJECT, env=environment, capture_output=True, text=True)


def parameters(runs: Path, name: str, base: list[str]) -> int | None:
    """How many the method trains of the recipe's model."""
    said = align("methods", [name, "--json"], runs, base)
    return json.loads(said.stdout)[0]["trained"]


def cell(runs: Path, name: str, base: list[str], factor: float) -> dict:
    """What one method learned on one base, or why it did not."""
    adapter = {"method": name} | SETTINGS.get(name, {})
    rates = {stage: RATES[stage] * TIMES_LORA.get(name, 1) * factor for stage in STAGES}
    sets = [*base, f"adapter={json.dumps(adapter)}", "stages.sft.evaluation.few_shot=0"]
    sets += ["evaluation.earlier_stages=false"]
    sets += [f"stages.{stage}.train.learning_rate={rate:g}" for stage, rate in rates.items()]
    load = os.getloadavg()[0]
    done = align("run", ["sft", "dpo", "--no-unsloth"], runs, sets)
    if done.returncode:
        return {"code": done.returncode, "said": " ".join((done.stdout + done.stderr).split())[-500:]}
    return {"load_before": round(load, 2)} | {
        stage: of_stage(runs / "tiny" / stage / "latest", rates[stage]) for stage in STAGES
    }


def of_stage(folder: Path, rate: float) -> dict:
    """A stage's figures, and what it cost."""
    manifest = json.loads((folder / "manifest.json").read_text())
    weights = sum(file.stat().st_size for file in (folder / manifest["output"]).glob("*.safetensors"))
    return {
        "learning_rate": rate,
        "before": manifest["metrics"]["before"],
        "after": manifest["metrics"]["after"],
        "seconds": manifest["seconds"],
        "peak_bytes": manifest["peak_bytes"]["host"],
        "weights_bytes": weights,
    }


def report(cells: list[dict]) -> dict:
    names = ("torch", "transformers", "trl", "peft")
    return {
        "versions": {"python": sys.version.split()[0], **{name: version(name) for name in names}},
        "cores": CORES,
        "recipe": "recipes/tiny.yaml",
        "times_lora": TIMES_LORA,
        "learning_rates": RATES,
        "settings": SETTINGS,
        "bases": BASES,
        "cells": cells,
    }


def summary(cells: list[dict]) -> list[dict]:
    """A row for each method and factor, with every seed's figures in a list."""
    rows: dict[tuple, dict] = {}
    for one in cells:
        if "said" in one:
            continue
        row = rows.setdefault(
            (one["method"], one["factor"]), {key: one[key] for key in ("method", "factor", "trained")}
        )
        values = {f"{stage} {key}": one[stage]["after"][key] for stage in STAGES for key in FIGURES[stage]}
        values |= {"seconds": sum(one[stage]["seconds"]["training"] for stage in STAGES)}
        values |= {"peak_mib": max(one[stage]["peak_bytes"] for stage in STAGES) / 2**20}
        values |= {"bytes": one["sft"]["weights_bytes"], "base": one["sft"]["before"]["exact_match"]}
        for key, value in values.items():
            row.setdefault(key, []).append(value)
    return list(rows.values())


def show(cells: list[dict]) -> None:
    headings = (
        "",
        "trained",
        "saved KB",
        "SFT: exact match",
        "DPO: accuracy",
        "win rate",
        "exact match",
        "s",
        "MiB",
        "seeds",
    )
    table = new_table("Means over the seeds (held-out rows)", headings)
    for row in sorted(summary(cells), key=lambda row: -mean(row["sft exact_match"])):
        name = row["method"] + (f" (rate times {row['factor']:g})" if row["factor"] != 1 else "")
        figures = [f"{mean(row[f'{stage} {key}']):.3f}" for stage in STAGES for key in FIGURES[stage]]
        costs = [f"{mean(row['seconds']):.0f}", f"{mean(row['peak_mib']):.0f}", str(len(row["seconds"]))]
        table.add_row(name, f"{row['trained'] or 0:,}", f"{mean(row['bytes']) / 1e3:,.0f}", *figures, *costs)
    console.print(table)
    for one in cells:
        if "said" in one:
            console.print(f"{one['method']}, seed {one['seed']}: {one['said']}", soft_wrap=True, markup=False)


def draw(rows: list[dict], file: Path) -> None:
    """What was learned against what was trained; a point for each seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(12, 5.5), sharex=True)
    titles = {"sft exact_match": "exact match after SFT", "dpo win_rate": "win rate after DPO over what SFT left"}
    for where, (key, title) in zip(axes, titles.items(), strict=True):
        where.set(xlabel="trained parameters", xscale="log", ylabel=title, ylim=(-0.05, 1.05))
        for row in rows:
            where.plot([row["trained"]] * len(row[key]), row[key], "o", color="#4c6a92", alpha=0.6, markersize=5)
        where.margins(x=0.12)
        name_points(where, {row["method"]: (row["trained"], mean(row[key])) for row in rows})
        where.grid(alpha=0.3)
        where.spines[["top", "right"]].set_visible(False)
    axes[1].axhline(0.5, color="#b22222", linestyle=":")
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    console.print(str(file))


def name_points(axes, points: dict[str, tuple[float, float]]) -> None:
    """Each name beside its point, higher or lower where a point or a name is in the way. Distances are in points of print."""
    places = {name: axes.transData.transform(here) * 72 / axes.figure.dpi for name, here in points.items()}
    taken = [(x - 4, x + 4, y) for x, y in places.values()]
    for name in sorted(places, key=lambda one: tuple(places[one])):
        x, y = places[name]
        start, end = x + 6, x + 6 + 6 * len(name)
        free = (
            way
            for way in (0, -7, 9, -17, 19, -27, 29)
            if all(abs(y + way - other) > 8 or start > last or end < first for first, last, other in taken)
        )
        way = next(free, 0)
        taken.append((start, end, y + way))
        axes.annotate(name, points[name], textcoords="offset points", xytext=(6, way - 3), fontsize=9)


if __name__ == "__main__":
    main()
