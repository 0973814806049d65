"""The place where benchmarks/gpu.py tries its recipes: a folder with models, rows and runs, and a time at which all ends."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from random_models import PROJECT, SHAPES, SMOKE, write_rows

SMALLEST = "llama-3.2-1b"
LORA = {"method": "lora", "r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
FILES = {"pretrain": "text", "sft": "chat", "grpo": "prompts", "rloo": "prompts", "ppo": "prompts"}  # else pairs


class World:
    """Commands of ours in a folder; with `smoke` on tiny shapes, for a CPU."""

    def __init__(self, folder: Path, until: float, smoke: bool):
        self.folder, self.until, self.smoke = folder, until, smoke  # `until` is by the monotonic clock
        self.length, self.batch, self.steps = (48, 2, 4) if smoke else (1024, 4, 20)
        self._made: set[str] = set()
        write_rows(folder, self.length, 60 if smoke else 200)

    def time_is_up(self) -> bool:
        return time.monotonic() > self.until

    def stage(self, recipe: Path, stage: str, **environment: str) -> dict:
        """What the manifest of a stage tells, or what was said where it failed."""
        code, said = self.align("run", stage, "-r", recipe, **environment)
        manifests = list((self.folder / "runs" / recipe.stem / stage).glob("*/manifest.json"))
        if code or not manifests:
            return {"failed": said[-600:]}
        manifest = json.loads(manifests[0].read_text())
        found = {
            "backend": manifest["run"]["backend"],
            "peak_gib": {key: round(value / 2**30, 2) for key, value in manifest["peak_bytes"].items()},
            "planned": manifest["memory"],
            "tokens_per_second": round(manifest["tokens"] / max(manifest["seconds"]["training"], 1e-9)),
        }
        if seen := manifest["memory"].get("measured"):
            found["plan_off"] = round(manifest["memory"]["planned"] / seen - 1, 4)
        return found

    def align(self, *arguments: object, **environment: str) -> tuple[int, str]:
        """(exit code, what was printed): for JSON that alone, and where it failed the end of all that was said."""
        try:
            done = subprocess.run(
                [sys.executable, "-m", "pipeline.cli", *map(str, arguments), "--runs", str(self.folder / "runs")],
                cwd=PROJECT, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"} | environment,
                timeout=max(self.until - time.monotonic(), 1),
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return 124, "the time was up"
        said = (done.stdout + done.stderr).strip()[-1500:]
        if done.returncode:
            print("FAILED", *arguments, said, flush=True)
        return done.returncode, said if done.returncode or "--json" not in arguments else done.stdout

    def model(self, name: str) -> None:
        """A model with random weights, made in a process of its own."""
        if name not in self._made:
            shape = SHAPES[name] | (SMOKE if self.smoke else {})
            call = f"from random_models import write_model; write_model({shape!r}, {str(self.folder / name)!r})"
            subprocess.run([sys.executable, "-c", call], cwd=PROJECT / "benchmarks", check=True)
            self._made.add(name)

    def base(self, model: str) -> dict:
        self.model(model)
        return {
            "id": str(self.folder / model),
            "dtype": "float32" if self.smoke else "bfloat16",
            "load_in_4bit": not self.smoke,
        }

    def data(self, stage: str) -> dict:
        file = self.folder / f"{FILES.get(stage, 'pairs')}.jsonl"
        return {"path": str(file), "held_out": 0.05} | ({"shape": "pairs"} if stage == "kto" else {})

    def recipe(self, name: str, base: str, stages: dict[str, dict], **more: object) -> Path:
        """A recipe of these stages; each is given training arguments beside those of all."""
        sections = {}
        for stage, train in stages.items():
            pair = stage not in FILES and stage != "kto"  # two sequences
            usual = {"per_device_train_batch_size": max(self.batch // 2, 1) if pair else self.batch}
            usual |= {} if stage == "ppo" else {"max_steps": self.steps}
            usual |= {} if FILES.get(stage) == "prompts" else {"max_length": self.length}
            sections[stage] = {"data": self.data(stage), "train": usual | {"learning_rate": 2e-4} | train}
            if stage in ("grpo", "rloo"):
                sections[stage]["reward_functions"] = {"brief": {"function": "length", "at_most": 8}}
        recipe = {"name": name, "model": self.base(base), "adapter": LORA, "evaluation": {"max_rows": 4}}
        file = self.folder / f"{name}.yaml"
        file.write_text(json.dumps(recipe | more | {"stages": sections}))
        return file

    def from_scratch(self) -> Path:
        shape = SHAPES[SMALLEST] | (SMOKE if self.smoke else {})
        self.model(SMALLEST)
        config = {key: value for key, value in shape.items() if key != "vocab_size"}
        model = {"config": config, "tokenizer": {"path": str(self.folder / SMALLEST)}, "template": "plain"}
        return self.recipe("from-scratch", SMALLEST, {"pretrain": {}}, model=model)

    def log(self, recipe: str, stage: str) -> list[dict]:
        logs = (self.folder / "runs" / recipe / stage).glob("*/log.jsonl")
        return [json.loads(line) for file in logs for line in file.read_text().splitlines()]

    def shrunk(self, recipe: str) -> list[dict]:
        files = (self.folder / "runs" / recipe / "sft").glob("*/shrunk.json")
        return [entry for file in files for entry in json.loads(file.read_text())]
