"""What more GPUs would give: what two processes gave here, formulas for 8 and 64 GPUs, and a simulation of slow and of lost ranks.
See README.md.
"""

import argparse
import json
import sys
from dataclasses import replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from against_trl import RESULTS, console, new_table

from benchmarks import scale_on_paper as paper
from benchmarks import scale_simulated as simulated
from pipeline.plan.memory.need import GIB

GPUS = (8, 64)
SIGMAS, RANKS, PASSES = (0.02, 0.05, 0.1, 0.2), (2, 8, 64, 512), (1, 8)
HOUR = 3600.0
SHARED_DISK, RESTART = 2e9, 120.0  # bytes/s of a shared file system, seconds until a stage trains again: guesses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--utilization", type=float, default=paper.ASSUMED["utilization"][0])
    parser.add_argument("--results", type=Path, default=RESULTS / f"scale-{datetime.now():%Y-%m-%d}.json")
    options = parser.parse_args()
    found = {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": {"python": sys.version.split()[0]} | {name: version(name) for name in ("numpy", "trl")},
        "on paper": "formulas and a simulation; nothing of it was run on a GPU",
        "assumed": {name: {"value": value, "from": where} for name, (value, where) in paper.ASSUMED.items()}
        | {"utilization used": options.utilization, "shared disk": SHARED_DISK, "restart": RESTART},
        "step": {"rows": paper.ROWS, "tokens of a row": paper.LENGTH, "rows of a pass": paper.A_PASS},
        "measured here": measured(),
        "steps": steps(options.utilization),
        "one network card a machine": steps(options.utilization, cards=1, gpus=GPUS[1:]),
        "tokens of a pass from which gathers are hidden": hidden(options.utilization),
        "stragglers": stragglers(),
        "lost ranks": lost_ranks(),
    }
    options.results.write_text(json.dumps(found, indent=1) + "\n")
    console.print(str(options.results))


def measured() -> dict:
    """What benchmarks/processes.py found last, on the CPU of whoever ran it."""
    files = sorted(RESULTS.glob("processes-*.json"))
    if not files:
        return {"why not": "run make bench-processes first"}
    said = json.loads(files[-1].read_text())
    table = new_table(
        f"Measured on {said['cores']} CPU cores: {said['processes']} processes", ["stage", "speed-up", "sent"]
    )
    rows = {}
    for stage, row in said["stages"].items():
        one, several = row["seconds"]
        sent = row["bytes exchanged a step and process, reckoned"]
        rows[stage] = {"speed-up": one / several, "efficiency": one / several / said["processes"], "sent": sent}
        table.add_row(stage, f"{one / several:.2f}", f"{sent / 1e6:.2f} MB")
    console.print(table)
    return {"file": files[-1].name, "processes": said["processes"], "stages": rows}


def steps(utilization: float, *, cards: int | None = None, gpus: tuple[int, ...] = GPUS) -> list[dict]:
    """Every model, method and strategy, on so many GPUs."""
    said = f", {cards} network card a machine" if cards else ""
    columns = [
        "model",
        "method",
        "GPUs",
        "strategy",
        "GiB a rank",
        "sent a step",
        "step",
        "no overlap",
        "tokens/s",
        "efficiency",
    ]
    table = new_table(
        f"On paper: a step of {paper.ROWS} rows of {paper.LENGTH} tokens{said}", [*columns, "pays until", "no overlap"]
    )
    cluster, rows = paper.Cluster(8, utilization=utilization), []
    cluster = replace(cluster, cards=cards or cluster.cards)
    for model in paper.MODELS:
        for method in ("lora", "full"):
            work = paper.Work(model, method)
            for n in gpus:
                for strategy in paper.STRATEGIES:
                    one = paper.step(work, strategy, replace(cluster, gpus=n))
                    until = {
                        said: paper.pays_until(work, strategy, cluster, overlap=overlap)
                        for said, overlap in (("pays until", True), ("pays until, without overlap", False))
                    }
                    row = {"model": model, "method": method} | one.to_json() | until
                    rows.append(row)
                    table.add_row(*_cells(row))
    console.print(table)
    return rows


def _cells(row: dict) -> list[str]:
    fits = row["fits"]
    told = [
        f"{row['with_overlap']:.2f} s",
        f"{row['without_overlap']:.2f} s",
        f"{row['tokens_per_second']:,.0f}",
        f"{row['efficiency']:.2f}",
        *(str(row[said] or "never") for said in ("pays until", "pays until, without overlap")),
    ]
    memory = f"{row['memory'] / GIB:.0f}" + ("" if fits else ", too much")
    first = [row["model"], row["method"], str(row["gpus"]), row["strategy"], memory, f"{row['sent'] / 1e9:.2f} GB"]
    return first + (told if fits else ["-"] * len(told))


def hidden(utilization: float) -> list[dict]:
    table = new_table(
        "On paper: tokens of a pass and GPU from which FSDP's gathers hide behind computing",
        ["model", "method", "8 GPUs", "64 GPUs", "64, 1 network card a machine"],
    )
    rows, cluster = [], paper.Cluster(8, utilization=utilization)
    clusters = {"8": cluster, "64": replace(cluster, gpus=64), "64, one card": replace(cluster, gpus=64, cards=1)}
    for model in paper.MODELS:
        for method in ("lora", "full"):
            found = {name: round(paper.hidden_from(paper.Work(model, method), one)) for name, one in clusters.items()}
            rows.append({"model": model, "method": method, "tokens": found})
            table.add_row(model, method, *(f"{tokens:,}" for tokens in found.values()))
    console.print(table)
    return rows


def stragglers() -> list[dict]:
    table = new_table(
        "Simulated: a step's time where all wait for the slowest", ["jitter", "passes", *(f"{n} ranks" for n in RANKS)]
    )
    rows = []
    for sigma in SIGMAS:
        for passes in PASSES:
            times = {n: simulated.straggling(n, sigma, passes) for n in RANKS}
            rows.append({"sigma": sigma, "passes": passes, "times": times})
            table.add_row(f"{sigma:.0%}", str(passes), *(f"{time:.2f}" for time in times.values()))
    console.print(table)
    return rows


def lost_ranks() -> list[dict]:
    """A rank lost every hour on average; a checkpoint is the trained weights and their optimizer's states, as align keeps them."""
    table = new_table(
        f"Simulated: a rank lost every hour, {RESTART:.0f} s to start again",
        ["checkpoint", "cost", "best every", "Young", "Daly", "time", "at Young's", "every 10 min", "every hour"],
    )
    rows = []
    for model in paper.MODELS:
        for method in ("lora", "full"):
            setting = paper.Work(model, method).setting
            states = paper.stage_need.need_of(setting).phases[0].parts["optimizer"]
            size = setting.tuned.bytes + states
            cost = size / SHARED_DISK
            best, took = simulated.best_interval(cost, RESTART, HOUR)
            formulas = {"young": simulated.young(cost, HOUR), "daly": simulated.daly(cost, HOUR)}
            others = {
                name: simulated.lost_ranks(3.6e7, every, cost, RESTART, HOUR) / 3.6e7
                for name, every in (("at Young's", formulas["young"]), ("every 10 min", 600.0), ("every hour", HOUR))
            }
            row = {"model": model, "method": method, "bytes": size, "cost": cost, "best": best, "took": took}
            rows.append(row | formulas | {"times": others})
            told = [f"{seconds:.0f} s" for seconds in (best, *formulas.values())]
            table.add_row(
                f"{model} {method}", f"{cost:.1f} s", *told, f"{took:.3f}", *(f"{one:.3f}" for one in others.values())
            )
    console.print(table)
    return rows


if __name__ == "__main__":
    main()
