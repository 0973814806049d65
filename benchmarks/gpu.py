"""What only a GPU can tell, in one command of at most nine minutes, without a network. See README.md.

Models with random weights in the shapes of Llama-3.2-1B, Qwen3-4B and Llama-3.1-8B. The most valuable trial comes first, what
was found is written after each, and what the time did not allow is listed as left out.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from gpu_world import SMALLEST, World
from random_models import PROJECT

RESULTS = PROJECT / "benchmarks/results"
PACKAGES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "unsloth", "unsloth_zoo")
COMPARED = [  # model, stage; the most telling first
    ("llama-3.1-8b", "sft"), ("llama-3.1-8b", "dpo"), ("llama-3.2-1b", "sft"), ("qwen3-4b", "sft"),
    ("llama-3.2-1b", "dpo"), ("qwen3-4b", "dpo"),
]  # fmt: skip
RECIPES = [("qwen3-4b", "qwen3-4b-16gb", 16), ("llama-3.1-8b", "llama-3.1-8b-24gb", 24)]
RESERVED_GIB = 1.0  # of a card: the CUDA context and the desktop, which the cap does not see
TOO_SMALL = 0.6  # of what the plan says that a step needs, the cap under which it has to heal itself
GOALS = {"sft": {"speed": 1.8, "memory": 0.6}, "dpo": {"speed": 1.5}, "loss": 1e-2, "plan": 0.1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=8.5, help="all is stopped after so many")
    parser.add_argument("--smoke", action="store_true", help="the same with tiny shapes, on a CPU: does it run?")
    parser.add_argument("--only", choices=Bench.TRIALS, action="append", help="may be repeated")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results go")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / f"gpu{'-smoke' if options.smoke else ''}-{time.strftime('%Y-%m-%d')}.json"
    with tempfile.TemporaryDirectory() as scratch:
        world = World(Path(scratch), time.monotonic() + 60 * options.minutes, options.smoke)
        Bench(world, file).run(options.only or Bench.TRIALS)
    print(file)


class Bench:
    """One run of everything, as far as the time goes."""

    TRIALS = ("recipes", "unsloth", "stages", "heal", "more_unsloth")  # the most valuable first

    def __init__(self, world: World, file: Path):
        self.world, self.file = world, file
        self.found: dict = {
            "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "on": _machine(), "smoke": world.smoke, "goals": GOALS,
            "length": world.length, "batch": world.batch, "steps": world.steps, "left_out": [],
        }  # fmt: skip

    def run(self, trials: Iterator[str]) -> None:
        for name in trials:
            for what, result in getattr(self, f"_{name}")():
                self._keep(name, what, result)

    def _keep(self, trial: str, what: str, result: dict | None) -> None:
        """Written as it comes: None for what there was no time for."""
        if result is None:
            self.found["left_out"].append(what)
        else:
            self.found.setdefault(trial, {})[what] = result
        self.file.write_text(json.dumps(self.found, indent=1) + "\n")
        print(f"{what}: {'left out' if result is None else json.dumps(_brief(result))}", flush=True)

    # -- the trials --------------------------------------------------------------------------------------

    def _recipes(self) -> Iterator[tuple[str, dict | None]]:
        """Both recipes for cards under a cap of that size, every stage for two steps."""
        for model, *_ in RECIPES:
            self.world.model(model)
        with ThreadPoolExecutor(len(RECIPES)) as pool:  # memory, not time, is what they tell
            for (_, recipe, gib), found in zip(
                RECIPES, pool.map(lambda one: self._under_a_cap(*one), RECIPES), strict=True
            ):
                yield f"{recipe} under {gib} GB", found

    def _unsloth(self, compared=COMPARED[:2]) -> Iterator[tuple[str, dict | None]]:
        for model, stage in compared:
            what = f"{stage} on {model}"
            if self.world.time_is_up():
                yield what, None
                continue
            recipe = self.world.recipe(f"{model}-{stage}", model, {stage: {"train_sampling_strategy": "random"}})
            options = ("--steps", self.world.steps, "--repeats", 1, "--json")
            code, said = self.world.align("compare", stage, "-r", recipe, *options)
            yield what, {"failed": said} if code else _compared(json.loads(said))

    def _more_unsloth(self) -> Iterator[tuple[str, dict | None]]:
        yield from () if self.world.smoke else self._unsloth(COMPARED[2:])

    def _stages(self) -> Iterator[tuple[str, dict | None]]:
        """All stages on the smallest model: the plan against the peak, and how fast."""
        few = {"max_steps": 4}
        sampled = few | {"max_completion_length": 64, "num_generations": 4, "per_device_train_batch_size": 4}
        stages = dict.fromkeys(("sft", "reward", "dpo", "kto", "orpo", "simpo"), few)
        stages |= {"grpo": sampled, "rloo": sampled}
        stages |= {"ppo": {"response_length": 64, "total_episodes": 16, "num_ppo_epochs": 1}}
        for recipe in (self.world.from_scratch(), self.world.recipe("every", SMALLEST, stages)):
            for stage in json.loads(recipe.read_text())["stages"]:
                yield f"{stage} on {SMALLEST}", None if self.world.time_is_up() else self.world.stage(recipe, stage)

    def _heal(self) -> Iterator[tuple[str, dict | None]]:
        """A micro-batch that is too large for a cap: it has to end where the same run ends that has all the memory."""
        what = f"sft on {SMALLEST} under a cap that is too small"
        train = {"per_device_train_batch_size": 8 * self.world.batch, "gradient_checkpointing": False}
        train |= {"max_steps": 6, "logging_steps": 1, "save_steps": 2}
        recipes = [self.world.recipe(name, SMALLEST, {"sft": train}) for name in ("all-of-it", "too-small")]
        if self.world.time_is_up():
            yield what, None
            return
        _, said = self.world.align("plan", "sft", "-r", recipes[0], "--json")
        cap = TOO_SMALL * json.loads(said)[0]["memory"]["bytes"] / 2**30
        whole = self.world.stage(recipes[0], "sft")
        healed = self.world.stage(recipes[1], "sft", ALIGN_GPU_GIB=f"{cap:.2f}")
        losses = [[line["loss"] for line in self.world.log(one.stem, "sft") if "loss" in line] for one in recipes]
        apart = [abs(one - other) for one, other in zip(*losses, strict=False)]
        yield what, healed | {
            "cap_gib": round(cap, 2), "needed_gib": whole.get("peak_gib"), "shrunk": self.world.shrunk(recipes[1].stem),
            "largest_loss_difference": max(apart, default=None),
        }  # fmt: skip

    def _under_a_cap(self, model: str, name: str, gib: int) -> dict:
        """A recipe for a card of that size, and the most memory that each stage took."""
        from pipeline.recipe import yaml_lines

        path = PROJECT / f"recipes/{name}.yaml"
        twin = yaml_lines.load(path.read_text(), str(path)).value
        twin |= {"model": self.world.base(model), "evaluation": {"max_rows": 2, "max_new_tokens": 8}}
        for stage, section in twin["stages"].items():
            section["data"] = self.world.data(stage)
            section["train"] |= {"max_steps": 2, "logging_steps": 1}
            if self.world.smoke:
                section["train"] |= {"max_length": 48} | ({"response_length": 8} if stage == "ppo" else {})
        recipe = self.world.folder / f"{name}.yaml"
        recipe.write_text(json.dumps(twin))
        cap = gib - RESERVED_GIB
        stages = {
            stage: None if self.world.time_is_up() else self.world.stage(recipe, stage, ALIGN_GPU_GIB=str(cap))
            for stage in twin["stages"]
        }
        left_out = {"left_out": [stage for stage, one in stages.items() if one is None]}
        return {"cap_gib": cap, "stages": {stage: one for stage, one in stages.items() if one}} | left_out


def _compared(result: dict) -> dict:
    goals = GOALS[result["stage"]]
    speed, memory = result["speed_ratios"][0], result["memory_ratios"][0]
    apart = result["loss"]["largest_difference"]
    met = speed >= goals["speed"] and memory <= goals.get("memory", float("inf")) and apart <= GOALS["loss"]
    short = {"verdict": result["verdict"], "speed_ratio": round(speed, 3), "memory_ratio": round(memory, 3)}
    return short | {"largest_loss_difference": apart, "meets_goals": met, "details": result}


def _brief(result: dict) -> dict:
    return {key: value for key, value in result.items() if key not in ("details", "planned")}


def _machine() -> dict:
    """The card and its driver, as nvidia-smi tells of them, and the versions."""
    ask = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        card = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        card = None
    versions = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return {"card": card, "versions": versions}


if __name__ == "__main__":
    main()
