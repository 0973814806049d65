"""GRPO and RLOO as whole processes: `align run` and TRL's own trainers of the same version, in turn, on the same work. See README.md."""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from statistics import median

from against_trl import CORES, PROJECT, console, environment_of, figures, in_own_process, keep, measure
from rich.table import Table

SHAPE = {
    "hidden_size": 640,
    "intermediate_size": 1728,
    "num_hidden_layers": 12,
    "num_attention_heads": 10,
    "num_key_value_heads": 10,
    "max_position_embeddings": 256,
    "vocab_size": 16_000,
    "tie_word_embeddings": False,
}
LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
WORK = {
    "learning_rate": 1e-5,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 2,
    "num_generations": 4,
    "max_completion_length": 48,
    "beta": 0.05,
    "max_steps": 4,
    "logging_steps": 1,
    "disable_dropout": True,
}
TRAINERS = {"grpo": "GRPO", "rloo": "RLOO"}
REWARDS = ("function", "model")
GOALS = {"function": {"training_seconds": 1.05, "peak_mib": 1.05}, "model": {"peak_mib": 0.6}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--threads", type=int, default=CORES, help="on a busy machine 1: threads that spin cost minutes"
    )
    options = parser.parse_args()
    runs: dict[str, dict[str, list[dict]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        world = Path(scratch)
        parameters = in_own_process(prepare, world, options.threads)
        console.print(f"a random Llama of {parameters / 1e6:.0f} million parameters, {options.threads} threads; {WORK}")
        for repeat in range(options.repeats):
            for stage in TRAINERS:
                for reward in REWARDS:
                    sides = runs.setdefault(f"{stage}, a reward {reward}", {"trl": [], "ours": []})
                    both = commands(stage, reward, repeat)
                    for name in both if repeat % 2 == 0 else reversed(both):
                        environment = environment_of(world, f"{stage}-{reward}-{name}-{repeat}")
                        environment |= {"OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"}
                        done = measure(both[name], world, environment)
                        found = figures(done) | {"training_seconds": trained(world, name, stage, reward, repeat)}
                        sides[name].append(found)
                        console.print(f"{repeat + 1}/{options.repeats}  {stage} {reward:<8} {name:<4} {found}")
    show(runs, parameters, options.threads)


def prepare(world: Path, threads: int) -> int:
    """The base, an SFT adapter and a reward adapter with random weights, and prompts; returns the base's parameters.

    No response of a random model ends before it is cut: both sides do the same work.
    """
    from transformers import AutoModelForSequenceClassification

    rows = [json.loads(line) for line in (PROJECT / "data/tiny/prompts.jsonl").read_text().splitlines()][:64]
    base, words = random_base(world, (row["prompt"] for row in rows))
    parameters = sum(parameter.numel() for parameter in base.parameters())
    random_adapter(base, words, world / "sft", task_type="CAUSAL_LM")
    scoring = AutoModelForSequenceClassification.from_pretrained(world / "base", num_labels=1)
    reward = random_adapter(scoring, words, world / "reward", task_type="SEQ_CLS", modules_to_save=["score"])
    reward.merge_and_unload().save_pretrained(world / "reward-model")
    words.save_pretrained(world / "reward-model")
    (world / "prompts.jsonl").write_text("".join(json.dumps({"prompt": row["prompt"]}) + "\n" for row in rows))
    (world / "mine.py").write_text(
        "def score(completions, **others):\n    return [len(set(text)) / 50 for text in completions]\n"
    )
    for reward in REWARDS:
        chosen = {"reward_function": "mine.py:score"} if reward == "function" else {"reward": str(world / "reward")}
        stages = {
            stage: {
                "policy": str(world / "sft"),
                "data": {"path": "prompts.jsonl", "held_out": 0},
                "train": WORK | {"save_strategy": "no"},
                **chosen,
            }
            for stage in TRAINERS
        }
        recipe = {"model": {"id": str(world / "base")}, "adapter": LORA, "threads": threads, "stages": stages}
        (world / f"{reward}.yaml").write_text(json.dumps(recipe))
    (world / "trl_side.py").write_text(TRL_SCRIPT.replace("WORK", repr(WORK)))
    return parameters


def random_base(world: Path, texts: Iterable[str]) -> tuple:
    """(a Llama of SHAPE with random weights, a tokenizer of these texts), both saved as `base`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from pipeline.model import tokenizer

    words = tokenizer.train(texts, 1000)
    words.add_special_tokens({"pad_token": "<pad>"})
    words.chat_template = (PROJECT / "pipeline/data/tokens/templates/raw.jinja").read_text()
    torch.manual_seed(0)
    ids = {f"{name}_token_id": getattr(words, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    base = LlamaForCausalLM(LlamaConfig(**SHAPE, **ids))
    base.save_pretrained(world / "base")
    words.save_pretrained(world / "base")
    return base, words


def random_adapter(model, words, folder: Path, **config: object):
    """The model with a LoRA that changes it a little, saved there with its tokenizer."""
    from peft import LoraConfig, get_peft_model

    adapter = get_peft_model(model, LoraConfig(**config, **LORA))
    for key, value in adapter.named_parameters():
        if "lora_B" in key:
            value.data.normal_(std=1e-3)
    adapter.save_pretrained(folder)
    words.save_pretrained(folder)
    return adapter


# As TRL's documentation has it: an adapter that is trained on, a reward function or the folder of a reward model.
TRL_SCRIPT = """
import sys, time
import trl
from datasets import load_dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from mine import score

kind, reward = sys.argv[1:]
args = getattr(trl, f"{kind}Config")(output_dir="trl-out", use_cpu=True, bf16=False, gradient_checkpointing=False,
                                     report_to="none", save_strategy="no", seed=42, **WORK)
trainer = getattr(trl, f"{kind}Trainer")(
    model=PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("base"), "sft", is_trainable=True), args=args,
    reward_funcs=score if reward == "function" else "reward-model",
    train_dataset=load_dataset("json", data_files="prompts.jsonl", split="train"),
    processing_class=AutoTokenizer.from_pretrained("base", padding_side="left"),
)
started = time.monotonic()
trainer.train()
print("training_seconds", time.monotonic() - started)
trainer.save_model("trl-out")
open(f"{kind.lower()}-{reward}.seconds", "w").write(str(time.monotonic() - started))
"""


def commands(stage: str, reward: str, repeat: int) -> dict[str, list[str]]:
    align = [sys.executable, "-m", "pipeline.cli", "run", stage, "-r", f"{reward}.yaml", "--runs", f"runs-{repeat}"]
    return {"trl": [sys.executable, "trl_side.py", TRAINERS[stage], reward], "ours": align}


def trained(world: Path, name: str, stage: str, reward: str, repeat: int) -> float:
    """Seconds of the training alone: ours has more around it, evaluations and a manifest."""
    if name == "trl":
        return round(float((world / f"{stage}-{reward}.seconds").read_text()), 2)
    file = next(world.glob(f"runs-{repeat}/{reward}/{stage}/*/manifest.json"))
    return json.loads(file.read_text())["seconds"]["training"]


def show(runs: dict[str, dict[str, list[dict]]], parameters: int, threads: int) -> None:
    table = Table(box=None)
    for heading in ("", "figure", "TRL", "ours", "ours / TRL, pair by pair", "goal"):
        table.add_column(heading, justify="left" if heading in ("", "figure") else "right")
    ratios: dict[str, dict[str, list[float]]] = {}
    for what, sides in runs.items():
        for key in ("training_seconds", "seconds", "peak_mib"):
            trl, ours = ([run[key] for run in sides[name]] for name in ("trl", "ours"))
            found = [round(mine / theirs, 3) for mine, theirs in zip(ours, trl, strict=True)]
            ratios.setdefault(what, {})[key] = found
            goal = GOALS[what.rpartition(" ")[2]].get(key)
            shown = ", ".join(f"{ratio:.2f}" for ratio in found)
            table.add_row(what, key, f"{median(trl):.1f}", f"{median(ours):.1f}", shown, f"<= {goal}" if goal else "")
    console.print(table)
    told = {"parameters": parameters, "shape": SHAPE, "lora": LORA, "work": WORK, "threads": threads}
    keep("rollouts", **told, runs=runs, ratios=ratios)


if __name__ == "__main__":
    main()
