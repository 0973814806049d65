"""What only a GPU can tell, in one command of at most nine minutes, without a network. See README.md.

Both backends on models with random weights in the shapes of Llama-3.2-1B, Qwen3-4B and Llama-3.1-8B, and the recipes
for 16 and 24 GB cards under a cap of their memory. What the time did not allow is listed as left out.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PROJECT = Path(__file__).parent.parent
sys.path.insert(0, str(PROJECT))
RESULTS = PROJECT / "benchmarks/results"
SHAPES = {
    "llama-3.2-1b": {
        "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128_256,
        "max_position_embeddings": 131_072, "rope_theta": 500_000.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
    },
    "qwen3-4b": {
        "model_type": "qwen3", "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936,
        "max_position_embeddings": 32_768, "rope_theta": 1_000_000.0, "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
    },
    "llama-3.1-8b": {
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128_256,
        "max_position_embeddings": 131_072, "rope_theta": 500_000.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
    },
}  # fmt: skip
SMOKE = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 1200,
}  # fmt: skip
LENGTH, BATCH, STEPS = 1024, 4, 20
COMPARED = [  # model, stage; the most telling first
    ("llama-3.1-8b", "sft"), ("llama-3.1-8b", "dpo"), ("llama-3.2-1b", "sft"), ("qwen3-4b", "sft"),
    ("llama-3.2-1b", "dpo"), ("qwen3-4b", "dpo"),
]  # fmt: skip
CAPPED = [("qwen3-4b", "qwen3-4b-16gb", 16), ("llama-3.1-8b", "llama-3.1-8b-24gb", 24)]
RESERVED_GIB = 1.0  # of a card: the CUDA context and the desktop, which the cap does not see
GOALS = {"sft": {"speed": 1.8, "memory": 0.6}, "dpo": {"speed": 1.5}, "loss": 1e-2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=8.5, help="no new trial is begun after this many")
    parser.add_argument("--smoke", action="store_true", help="the same with tiny shapes, on a CPU: does it run?")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results go")
    options = parser.parse_args()
    bench = Bench(options.minutes, options.smoke)
    with tempfile.TemporaryDirectory() as scratch:
        bench.world = Path(scratch)
        result = bench.run()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / f"gpu{'-smoke' if options.smoke else ''}-{time.strftime('%Y-%m-%d')}.json"
    file.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: value for key, value in result.items() if key != "details"}, indent=1))
    print(file)


class Bench:
    """One run of everything, as far as the time goes."""

    world: Path

    def __init__(self, minutes: float, smoke: bool):
        self.until = time.monotonic() + 60 * minutes
        self.smoke = smoke
        self.left_out: list[str] = []

    def run(self) -> dict:
        length, batch, steps = (48, 2, 6) if self.smoke else (LENGTH, BATCH, STEPS)
        self._write_rows(length)
        compared, details, made = [], [], set()
        for model, stage in COMPARED:
            what = f"compare {stage} on {model}"
            if time.monotonic() > self.until:
                self.left_out.append(what)
                continue
            self._model(model, made)
            recipe = self._recipe(model, stage, length, batch)
            found = self._align("compare", stage, "-r", recipe, "--steps", steps, "--repeats", 1, "--json")
            if isinstance(found, str):
                compared.append({"model": model, "stage": stage, "failed": found})
                continue
            details.append(found | {"model": model})
            compared.append(_short(model, found))
            print(what, compared[-1]["verdict"], flush=True)
        capped = []
        if time.monotonic() < self.until:
            for model, *_ in CAPPED:
                self._model(model, made)
            with ThreadPoolExecutor(len(CAPPED)) as pool:  # memory, not time, is what they tell
                capped = list(pool.map(lambda one: self._under_a_cap(*one), CAPPED))
        else:
            self.left_out += [f"{recipe} under {gib} GB" for _, recipe, gib in CAPPED]
        return {
            "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "length": length, "batch": batch, "steps": steps, "goals": GOALS,
            "compared": compared, "under_a_cap": capped, "left_out": self.left_out, "details": details,
        }  # fmt: skip

    def _align(self, *arguments: object, **environment: str):
        """What a command of ours prints as JSON, or the end of what it said where it failed."""
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.cli", *map(str, arguments), "--runs", str(self.world / "runs")],
            cwd=PROJECT, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"} | environment,
        )  # fmt: skip
        if done.returncode:
            said = (done.stdout + done.stderr).strip()[-1500:]
            print("FAILED", *arguments, said, flush=True)
            return said
        return json.loads(done.stdout) if "--json" in arguments else done.stdout

    def _model(self, name: str, made: set[str]) -> None:
        """A model with random weights, made in a process of its own."""
        if name not in made:
            shape = SHAPES[name] | (SMOKE if self.smoke else {})
            call = f"from gpu import write_model; write_model({shape!r}, {str(self.world / name)!r})"
            subprocess.run([sys.executable, "-c", call], cwd=PROJECT / "benchmarks", check=True)
            made.add(name)

    def _write_rows(self, length: int) -> None:
        rng = random.Random(0)
        words = [row["prompt"].split() for row in _lines(PROJECT / "data/tiny/prompts.jsonl")]
        words = sorted({word for row in words for word in row})

        def text(tokens: int) -> str:
            return " ".join(rng.choice(words) for _ in range(tokens))

        n = 200
        chat = [{"prompt": text(length // 8), "completion": text(length)} for _ in range(n)]
        pairs = [{"prompt": text(length // 8), "chosen": text(length), "rejected": text(length)} for _ in range(n)]
        for name, rows in {
            "chat": chat,
            "pairs": pairs,
            "prompts": [{"prompt": text(length // 4)} for _ in range(n)],
        }.items():
            (self.world / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def _base(self, model: str) -> dict:
        quantized = not self.smoke
        return {
            "id": str(self.world / model),
            "dtype": "bfloat16" if quantized else "float32",
            "load_in_4bit": quantized,
        }

    def _recipe(self, model: str, stage: str, length: int, batch: int) -> Path:
        data = "chat" if stage == "sft" else "pairs"
        each = batch if stage == "sft" else max(batch // 2, 1)  # a pair is two sequences
        recipe = {
            "name": f"{model}-{stage}",
            "model": self._base(model),
            "adapter": {"method": "lora", "r": 16, "lora_alpha": 32, "target_modules": "all-linear"},
            "evaluation": {"max_rows": 4},
            "stages": {
                stage: {
                    "data": {"path": str(self.world / f"{data}.jsonl"), "held_out": 0.02},
                    "train": {
                        "max_length": length, "per_device_train_batch_size": each, "learning_rate": 2e-4,
                        "train_sampling_strategy": "random",
                    },
                }
            },
        }  # fmt: skip
        file = self.world / f"{model}-{stage}.yaml"
        file.write_text(json.dumps(recipe))
        return file

    def _under_a_cap(self, model: str, recipe: str, gib: int) -> dict:
        """A recipe for a card of that size, every stage for two steps, and the most memory each took."""
        from pipeline.recipe import yaml_lines

        path = PROJECT / f"recipes/{recipe}.yaml"
        twin = yaml_lines.load(path.read_text(), str(path)).value
        twin["model"] = self._base(model)
        twin["evaluation"] = {"max_rows": 2, "max_new_tokens": 8}
        for stage, section in twin["stages"].items():
            file = {"sft": "chat", "ppo": "prompts"}.get(stage, "pairs")
            section["data"] = {"path": str(self.world / f"{file}.jsonl"), "held_out": 0.02}
            section["train"] |= {"max_steps": 2, "logging_steps": 1}
            if self.smoke:
                section["train"] |= {"max_length": 48} | ({"response_length": 8} if stage == "ppo" else {})
        file = self.world / f"{recipe}.yaml"
        file.write_text(json.dumps(twin))
        found = {"recipe": recipe, "card_gib": gib, "cap_gib": gib - RESERVED_GIB, "stages": {}}
        for stage in twin["stages"]:
            said = self._align("run", stage, "-r", file, ALIGN_GPU_GIB=str(gib - RESERVED_GIB))
            manifests = list((self.world / "runs" / recipe / stage).glob("*/manifest.json"))
            if not manifests:
                found["stages"][stage] = {"fits": False, "said": said[-600:]}
                continue
            manifest = json.loads(manifests[0].read_text())
            peak = {key: round(value / 2**30, 2) for key, value in manifest["peak_bytes"].items()}
            found["stages"][stage] = {
                "fits": True, "backend": manifest["run"]["backend"], "peak_gib": peak,
                "tokens_per_second": round(manifest["tokens"] / max(manifest["seconds"]["training"], 1e-9)),
            }  # fmt: skip
        return found


def _short(model: str, result: dict) -> dict:
    goals = GOALS[result["stage"]]
    speed, memory = result["speed_ratios"][0], result["memory_ratios"][0]
    return {
        "model": model,
        "stage": result["stage"],
        "verdict": result["verdict"],
        "speed_ratio": round(speed, 3),
        "memory_ratio": round(memory, 3),
        "largest_loss_difference": result["loss"]["largest_difference"],
        "meets_goals": speed >= goals["speed"]
        and memory <= goals.get("memory", float("inf"))
        and result["loss"]["largest_difference"] <= GOALS["loss"],
        "what_ran": result["what_ran"],
    }


def _lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def write_model(shape: dict, folder: str) -> None:
    """Random weights of a shape, in bf16, with a small tokenizer beside them."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, set_seed

    from pipeline.model import tokenizer

    words = tokenizer.train((row["prompt"] for row in _lines(PROJECT / "data/tiny/prompts.jsonl")), 1000)
    words.add_special_tokens({"pad_token": "<pad>"})
    words.chat_template = (PROJECT / "pipeline/data/tokens/templates/plain.jinja").read_text()
    ids = {f"{name}_token_id": getattr(words, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    set_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape, **ids), dtype=torch.bfloat16)
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    words.save_pretrained(folder)


if __name__ == "__main__":
    main()
