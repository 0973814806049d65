"""Artifacts as a stage leaves them, made up: for pages that no quick run would give."""

import json
from pathlib import Path

from conftest import write_micro, write_rows

from pipeline.artifact.attempt import Attempt
from pipeline.artifact.manifest import write_manifest
from pipeline.plan.step import RUN, UP_TO_DATE, Step
from pipeline.recipe.reading import load_recipe
from pipeline.report import page

ROWS = 100
WAS, NOW = [0.0] * 60 + [1.0] * 40, [0.0] * 10 + [1.0] * 90  # of exact match
INPUTS = {
    "train": {"learning_rate": 0.005, "max_steps": 12, "global_batch": 4},
    "adapter": {"method": "lora", "r": 4, "lora_alpha": 8},
    "model": {"dtype": "float32", "load_in_4bit": False},
    "seed": 42,
}
LOG = [{"step": step, "loss": 2 / step, "learning_rate": 1e-3, "grad_norm": 1.0} for step in range(1, 31)]


def figures(each: dict[str, list[float]]) -> dict:
    n = max(map(len, each.values()), default=0)
    metrics = {name: sum(rows) / len(rows) for name, rows in each.items()} | ({"n": n} if n else {})
    return {"metrics": metrics, "each": each, "weights": {}, "completions": []}


def attempt(
    folder: Path,
    stage: str = "sft",
    name: str = "0123456789ab",
    *,
    before: dict | None = None,
    after: dict | None = None,
    log: list[dict] = LOG,
    samples: list[dict] = (),
    finished: bool = True,
    rows_kept: bool = True,
    inputs: dict = INPUTS,
    **more: object,
) -> Attempt:
    """An attempt at a stage below `folder`, the folder of its recipe."""
    before = figures({"exact_match": WAS}) if before is None else before
    after = figures({"exact_match": NOW}) if after is None else after
    place = folder / stage / name
    (place / "adapter").mkdir(parents=True)
    (place / "inputs.json").write_text(json.dumps(inputs))
    write_rows(place / "log.jsonl", log)
    write_rows(place / "samples.jsonl", list(samples))
    for when, said in (("before", before), ("after", after)):
        if rows_kept and (finished or when == "before"):
            (place / f"{when}.json").write_text(json.dumps(said))
    account = {"read": 120, "trained": 18, "held_out": 100, "dropped": 2, "dropped_by_reason": {"too <b>long</b>": 2}}
    manifest = {
        "stage": stage,
        "fingerprint": name[:12],
        "inputs": inputs,
        "data": {"files": {"data/<i>chat</i>.jsonl": "0"}, "rows": account},
        "output": "adapter",
        "run": {"backend": "transformers", "device": "cpu", "threads": 1, "attention": "sdpa"},
        "steps": 30,
        "tokens": 1000,
        "seconds": {"training": 2.5, "in all": 3.0},
        "peak_bytes": {"host": 1 << 30},
        "versions": {"python": "3.11"},
        "metrics": {"before": before["metrics"], "after": after["metrics"]},
        "samples": [],
        "finished": "2026-11-30T05:00:00+0000",
    }
    if finished:
        write_manifest(place, manifest | more)
    return Attempt(place)


def written(tmp_path: Path, *made: Attempt, live: page.Live | None = None) -> str:
    """The page of the micro recipe with these attempts, of one stage each."""
    write_micro(tmp_path)
    recipe = load_recipe(tmp_path / "micro.yaml")
    there = {one.folder.parent.name: one for one in made}
    steps = [
        Step(name, UP_TO_DATE if name in there and there[name].finished else RUN, "why", attempt=there.get(name))
        for name in recipe.stages
    ]
    return page.write(recipe, steps, tmp_path, live=live).read_text(encoding="utf-8")
