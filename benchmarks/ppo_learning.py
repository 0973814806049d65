"""What PPO learns for its KL, here and in TRL 1.12: the tiny world, the same parents, prompts and settings. See README.md.

The chain up to the reward model is built in --runs first (minutes a seed, once).
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from against_trl import PROJECT, RESULTS, console, environment_of, in_own_process, measure
from ppo_against_trl import TRL_ENVIRONMENT, make_trl_environment

WORK = {
    "learning_rate": 1e-4, "per_device_train_batch_size": 32, "gradient_accumulation_steps": 1, "num_mini_batches": 1,
    "num_ppo_epochs": 2, "response_length": 18, "temperature": 1.0, "kl_coef": 0.05, "vf_coef": 0.1, "logging_steps": 1,
    "max_grad_norm": 1.0, "local_rollout_forward_batch_size": 32,
}  # fmt: skip
SLOWER = 3e-5  # at which ours moves about as fast away from the SFT policy as TRL's does at 1e-4
PROMPTS = PROJECT / "data/tiny/prompts.jsonl"
SHOWN = ("objective/kl", "objective/scores")

TRL_SCRIPT = """
import json, sys, torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from trl.experimental.ppo import PPOConfig, PPOTrainer

class Log(TrainerCallback):
    def on_log(self, args, state, control, logs=None, **_):
        if "objective/kl" in logs:
            print("LOG " + json.dumps({key: float(logs[key]) for key in ("objective/kl", "objective/scores")}), flush=True)

work, seed, prompts = json.loads(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
tokenizer = AutoTokenizer.from_pretrained("policy", padding_side="left")
asked = [[{"role": "user", "content": json.loads(line)["prompt"]}] for line in open(prompts)]
texts = [tokenizer.apply_chat_template(one, tokenize=False, add_generation_prompt=True) for one in asked]
rows = Dataset.from_dict({"input_ids": [tokenizer(text, add_special_tokens=False).input_ids for text in texts]})
args = PPOConfig(output_dir="out", use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none", seed=seed,
                 num_sample_generations=0, save_strategy="no", stop_token="eos", **work)
score = lambda: AutoModelForSequenceClassification.from_pretrained("reward-model", num_labels=1)
PPOTrainer(args=args, processing_class=tokenizer, model=AutoModelForCausalLM.from_pretrained("policy"), ref_model=None,
           reward_model=score(), value_model=score(), train_dataset=rows, eval_dataset=rows.select(range(4)), callbacks=[Log()],
           peft_config=LoraConfig(task_type="CAUSAL_LM", r=32, lora_alpha=64, target_modules="all-linear")).train()
"""

PLOT_SCRIPT = """
import json, sys
import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

result, smooth = json.load(open(sys.argv[1])), lambda some: np.convolve(some, np.ones(10) / 10, mode="valid")
figure, axes = plt.subplots(figsize=(7, 4.5))
for name, colour in (("trl", "tab:orange"), ("ours", "tab:blue"), ("ours, slower", "tab:cyan")):
    for number, run in enumerate(result["curves"][name]):
        axes.plot(smooth(run["objective/kl"]), smooth(run["objective/scores"]), color=colour, marker=".", markersize=3,
                  label=None if number else {"trl": "TRL 1.12", "ours": "align", "ours, slower": "align, learning rate 3e-5"}[name])
axes.set(xlabel="KL to the SFT policy (nats a response, mean of 10 rollouts)", ylabel="reward (mean of 10 rollouts)")
axes.grid(alpha=0.3)
axes.legend()
figure.tight_layout()
figure.savefig(sys.argv[2], dpi=110)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--episodes", type=int, default=1920)
    parser.add_argument("--runs", type=Path, default=PROJECT / "runs/benchmark")
    parser.add_argument("--results", type=Path, default=RESULTS / "ppo_learning.json")
    options = parser.parse_args()
    make_trl_environment("matplotlib==3.11.2")
    work, curves = WORK | {"total_episodes": options.episodes}, {"trl": [], "ours": [], "ours, slower": []}
    for seed in options.seeds:
        folder = (options.runs / f"seed-{seed}").resolve()
        chain = [
            sys.executable,
            "-m",
            "pipeline.cli",
            "run",
            "sft",
            "reward",
            "-r",
            "recipes/tiny.yaml",
            "--runs",
            folder,
        ]
        subprocess.run([*map(str, chain), "--set", f"seed={seed}"], cwd=PROJECT, check=True)
        in_own_process(prepare, folder, work, seed)
        environment = environment_of(folder, str(seed)) | {"OMP_NUM_THREADS": "1"}
        theirs = [str(TRL_ENVIRONMENT / "bin/python"), "-c", TRL_SCRIPT, json.dumps(work), str(seed), str(PROMPTS)]
        said = measure(theirs, folder, environment).output
        found = {"trl": [one[4:] for one in said.splitlines() if one.startswith("LOG ")]}
        for name, rate in (("ours", work["learning_rate"]), ("ours, slower", SLOWER)):
            ours = [sys.executable, "-m", "pipeline.cli", "run", "ppo", "-r", "learning.yaml", "--runs", ".", "--fresh"]
            measure([*ours, "--set", f"stages.ppo.train.learning_rate={rate}"], folder, environment)
            found[name] = (folder / "learning/ppo/latest/log.jsonl").read_text().splitlines()
        for name, lines in found.items():
            rows = [row for row in map(json.loads, lines) if SHOWN[0] in row]
            curves[name].append({"seed": seed} | {key: [row[key] for row in rows] for key in SHOWN})
            kl, score = (sum(curves[name][-1][key][-10:]) / min(len(rows), 10) for key in SHOWN)
            console.print(f"seed {seed}  {name:<5} reward {score:.2f} at KL {kl:.2f} (the last ten rollouts)")
    options.results.write_text(json.dumps({"work": work, "curves": curves}) + "\n")
    picture = options.results.with_suffix(".png")
    subprocess.run([TRL_ENVIRONMENT / "bin/python", "-c", PLOT_SCRIPT, options.results, picture], check=True)
    console.print(str(picture))


def prepare(folder: Path, work: dict, seed: int) -> None:
    """TRL's whole models, merged, and the recipe that starts from the same adapters."""
    from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification
    from transformers import AutoTokenizer

    sft, reward = ((folder / "tiny" / stage / "latest").resolve() / "adapter" for stage in ("sft", "reward"))
    tokenizer = AutoTokenizer.from_pretrained(sft)
    AutoPeftModelForCausalLM.from_pretrained(sft).merge_and_unload().save_pretrained(folder / "policy")
    tokenizer.save_pretrained(folder / "policy")
    scored = AutoPeftModelForSequenceClassification.from_pretrained(
        reward, num_labels=1, pad_token_id=tokenizer.pad_token_id
    )
    scored.merge_and_unload().save_pretrained(folder / "reward-model")
    ppo = {
        "policy": str(sft),
        "reward": str(reward),
        "data": {"path": str(PROMPTS), "held_out": str(PROMPTS.with_name("prompts_held_out.jsonl"))},
        "train": work | {"max_length": 64, "eval_strategy": "no", "logging_steps": work["num_ppo_epochs"]},
    }
    base = json.loads((sft / "adapter_config.json").read_text())["base_model_name_or_path"]
    recipe = {"model": {"id": base}, "threads": 1, "seed": seed, "stages": {"ppo": ppo}}
    (folder / "learning.yaml").write_text(json.dumps(recipe))


if __name__ == "__main__":
    main()
