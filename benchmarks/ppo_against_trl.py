"""PPO as a whole process: `align run ppo` and TRL's last PPO trainer (1.12.0), in turn, on the same work. See README.md."""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from statistics import median

from against_trl import CORES, PROJECT, console, environment_of, figures, in_own_process, install, keep, measure
from rich.table import Table

TRL_ENVIRONMENT = PROJECT / ".venv-trl-1.12"
TRL_PACKAGES = "torch==2.13.0 trl==1.12.0 transformers==5.17.0 peft==0.21.2 accelerate==1.15.0 datasets==4.8.5".split()
SHAPE = {
    "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12,
    "num_key_value_heads": 12, "max_position_embeddings": 256, "vocab_size": 16_000, "tie_word_embeddings": False,
}  # fmt: skip
LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
WORK = {
    "learning_rate": 1e-5, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "num_mini_batches": 1,
    "num_ppo_epochs": 2, "total_episodes": 32, "response_length": 48, "temperature": 1.0, "kl_coef": 0.05,
    "local_rollout_forward_batch_size": 16, "logging_steps": 1,
}  # fmt: skip
EOS_LOGIT = 6.5  # of EOS, on average; the other 16,000 logits of a random model are about 0
GOALS = {"peak_mib": 0.55, "seconds": 0.8}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--never-ending", action="store_true", help="no response ends before it is cut")
    options = parser.parse_args()
    make_trl_environment()
    runs = {"trl": [], "ours": []}
    with tempfile.TemporaryDirectory() as scratch:
        world = Path(scratch)
        parameters = in_own_process(prepare, world, not options.never_ending)
        console.print(f"a random Llama of {parameters / 1e6:.0f} million parameters, {CORES} threads; {WORK}")
        for repeat in range(options.repeats):
            for name, command in commands(world, repeat).items():
                environment = environment_of(world, f"{name}-{repeat}") | {
                    "OMP_NUM_THREADS": str(CORES), "HF_HUB_OFFLINE": "1",
                }  # fmt: skip
                done = measure(command, world, environment)
                runs[name].append(figures(done))
                console.print(
                    f"{repeat + 1}/{options.repeats}  {name:<5} {done.seconds:7.1f} s  {done.peak_mib:7.0f} MiB"
                )
        length = mean_length(world)
    show(runs, parameters, length, options.never_ending)


def make_trl_environment(*more: str) -> None:
    """TRL's last PPO trainer wants another TRL than ours."""
    install(TRL_ENVIRONMENT, *TRL_PACKAGES, *more)


def prepare(world: Path, ends: bool = True) -> int:
    """The base, an SFT adapter and a reward adapter with random weights, and prompts; returns the base's parameters.

    With `ends`, the policy's responses end by themselves, as a trained policy's do, at lengths that differ.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForCausalLM

    from pipeline.model import tokenizer

    rows = [json.loads(line) for line in (PROJECT / "data/tiny/prompts.jsonl").read_text().splitlines()]
    words = tokenizer.train((row["prompt"] for row in rows), 1000)
    words.add_special_tokens({"pad_token": "<pad>"})
    words.chat_template = (PROJECT / "pipeline/data/tokens/templates/raw.jinja").read_text()
    torch.manual_seed(0)
    ids = {f"{name}_token_id": getattr(words, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    base = LlamaForCausalLM(LlamaConfig(**SHAPE, **ids))
    if ends:
        with torch.no_grad():
            base.model.embed_tokens.weight[:, 0] = 10.0  # a channel that all tokens have in common, for EOS to hang on
            common = base.model(torch.randint(SHAPE["vocab_size"], (16, 64))).last_hidden_state[..., 0].mean()
            base.lm_head.weight[words.eos_token_id, 0] = EOS_LOGIT / common
    base.save_pretrained(world / "base")
    words.save_pretrained(world / "base")
    for name, task in (("sft", "CAUSAL_LM"), ("reward", "SEQ_CLS")):
        model = base
        if name == "reward":
            model = AutoModelForSequenceClassification.from_pretrained(world / "base", num_labels=1)
        heads = {"modules_to_save": ["score"]} if name == "reward" else {}
        adapter = get_peft_model(model, LoraConfig(task_type=task, **heads, **LORA))
        for key, value in adapter.named_parameters():
            if "lora_B" in key:
                value.data.normal_(std=1e-3)
        adapter.save_pretrained(world / name)
        words.save_pretrained(world / name)
        if name == "reward":
            adapter.merge_and_unload().save_pretrained(world / "reward-model")
    taken = rows[: WORK["total_episodes"]]
    (world / "prompts.jsonl").write_text("".join(json.dumps({"prompt": row["prompt"]}) + "\n" for row in taken))
    (world / "few.jsonl").write_text("".join(json.dumps({"prompt": row["prompt"]}) + "\n" for row in rows[-4:]))
    recipe = {
        "model": {"id": str(world / "base")},
        "adapter": LORA,
        "threads": CORES,
        "evaluation": {"max_new_tokens": 8},
        "stages": {
            "ppo": {
                "policy": str(world / "sft"),
                "reward": str(world / "reward"),
                "data": {"path": "prompts.jsonl", "held_out": "few.jsonl"},
                "train": WORK | {"max_length": 128, "save_steps": 4, "eval_strategy": "no"},
            }
        },
    }
    (world / "ppo.yaml").write_text(json.dumps(recipe))
    (world / "trl_ppo.py").write_text(TRL_SCRIPT.replace("WORK", repr(WORK)).replace("LORA", repr(LORA)))
    return sum(parameter.numel() for parameter in LlamaForCausalLM(LlamaConfig(**SHAPE)).parameters())


# TRL keeps the reward model and the value model whole; the reference is the policy with its adapter switched off.
TRL_SCRIPT = """
import torch
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl.experimental.ppo import PPOConfig, PPOTrainer

tokenizer = AutoTokenizer.from_pretrained("base", padding_side="left")
ask = lambda row: {"input_ids": tokenizer(row["prompt"]).input_ids}
rows, few = (load_dataset("json", data_files=f"{name}.jsonl", split="train").map(ask, remove_columns="prompt") for name in ("prompts", "few"))
args = PPOConfig(output_dir="trl-out", use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
                 num_sample_generations=0, save_strategy="no", stop_token="eos", seed=42, **WORK)
score = lambda: AutoModelForSequenceClassification.from_pretrained("reward-model", num_labels=1)
trainer = PPOTrainer(args=args, processing_class=tokenizer, model=AutoModelForCausalLM.from_pretrained("base"), ref_model=None,
                     reward_model=score(), value_model=score(), train_dataset=rows, eval_dataset=few,
                     peft_config=LoraConfig(task_type="CAUSAL_LM", **LORA))
trainer.train()
trainer.save_model("trl-out")
"""


def commands(world: Path, repeat: int) -> dict[str, list[str]]:
    """In turn, every second repeat backwards."""
    both = {
        "trl": [str(TRL_ENVIRONMENT / "bin/python"), "trl_ppo.py"],
        "ours": [sys.executable, "-m", "pipeline.cli", "run", "ppo", "-r", "ppo.yaml", "--runs", f"runs-{repeat}"],
    }
    return both if repeat % 2 == 0 else dict(reversed(both.items()))


def mean_length(world: Path) -> float:
    """Tokens of a response in our first run."""
    log = next(world.glob("runs-0/ppo/ppo/*/log.jsonl")).read_text().splitlines()
    lengths = [row["val/response_length"] for row in map(json.loads, log) if "val/response_length" in row]
    return sum(lengths) / len(lengths)


def show(runs: dict[str, list[dict]], parameters: int, length: float, never_ending: bool) -> None:
    table = Table(box=None)
    for heading in ("", "TRL 1.12", "ours", "ours / TRL, pair by pair", "goal"):
        table.add_column(heading, justify="left" if not heading else "right")
    ratios = {}
    for key, goal in GOALS.items():
        trl, ours = ([run[key] for run in runs[name]] for name in ("trl", "ours"))
        ratios[key] = [round(mine / theirs, 3) for mine, theirs in zip(ours, trl, strict=True)]
        shown = ", ".join(f"{ratio:.2f}" for ratio in ratios[key])
        table.add_row(key, f"{median(trl):.0f}", f"{median(ours):.0f}", shown, f"<= {goal}")
    console.print(table)
    console.print(f"responses of {length:.1f} tokens on average, {WORK['response_length']} at most")
    told = {"parameters": parameters, "response_length": length, "shape": SHAPE, "lora": LORA, "work": WORK}
    kind = "-never-ending" if never_ending else ""
    keep(f"ppo_against_trl{kind}", **told, threads=CORES, trl=TRL_PACKAGES, runs=runs, ratios=ratios)


if __name__ == "__main__":
    main()
