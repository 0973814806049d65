"""Where does the time of a step go that is no matrix product? One step of each stage, operation by operation.

    make bench-step                 # two sizes, a few minutes

A step of a stage's own trainer under torch.profiler, on one thread: shares and not seconds. See benchmarks/README.md.
"""

import argparse
import cProfile
import json
import os
import pstats
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.memory import FREE, RESULTS, _write_rows
from benchmarks.real_sizes import sizes

SIZES = {
    "0.6M": {"model_type": "llama", "vocab_size": 1200} | sizes(128, 384, 2, 4, num_key_value_heads=2, head_dim=32),
    "20M": {"model_type": "llama", "vocab_size": 8192} | sizes(384, 1024, 8, 6, num_key_value_heads=2, head_dim=64),
    "80M": {"model_type": "llama", "vocab_size": 6400} | sizes(768, 2048, 11, 12, num_key_value_heads=12, head_dim=64),
}
STAGES = {"sft": "chat", "dpo": "pairs", "reward": "pairs", "ppo": "prompts", "grpo": "prompts"}  # and their rows
SAMPLING = ("ppo", "grpo")
ROWS, ANSWER, WORDS = 8, 48, 48
# Operations by what they are for; the first group that names one has it.
GROUPS = {
    "matrix products": ("mm", "addmm", "bmm", "linear", "matmul", "baddbmm"),
    "attention": ("scaled_dot_product", "flash_attention"),
    "choosing tokens, softmax": ("softmax", "logsumexp", "topk", "sort", "multinomial", "gather", "scatter", "argmax"),
    "the optimizer": ("foreach", "fused_adam", "norm"),
    "copies": ("copy_", "clone", "cat", "index", "to", "contiguous", "fill_", "zero", "stack", "embedding", "repeat"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=["0.6M", "20M"])
    parser.add_argument("--stages", nargs="*", choices=STAGES, default=list(STAGES))
    parser.add_argument("--words", type=int, default=WORDS, help="of an answer, at most; a prompt has a quarter")
    parser.add_argument("--functions", type=int, default=0, help="also show so many Python functions, by cProfile")
    parser.add_argument("--out", type=Path, default=RESULTS / "step-profile.json")
    chosen = parser.parse_args()
    out, found = chosen.out.resolve(), []
    from benchmarks.random_models import write_model

    for size in chosen.sizes:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            write_model(SIZES[size] | {"max_position_embeddings": 2048, "tie_word_embeddings": True}, "base")
            _write_rows(chosen.words)
            for stage in chosen.stages:
                row = {"size": size, "stage": stage} | profiled(stage, chosen.functions)
                found.append(row)
                out.write_text(json.dumps(found, indent=1) + "\n")
                shares = ", ".join(f"{name} {share:.0%}" for name, share in row["shares"].items())
                print(
                    f"{size} {stage}: {row['seconds']:.3f} s a step, rollout {row['rollout']:.0%}; {shares}", flush=True
                )
                print(f"   most of one: {row['most']}", flush=True)


def profiled(stage: str, functions: int) -> dict:
    """Seconds of the second and third step, and shares of the fourth by what its operations are for."""
    import torch
    from transformers import TrainerCallback

    trainer = _trainer(stage)
    rollouts: list[float] = []
    name = {"grpo": "_generate_and_score_completions", "ppo": "_roll_out"}.get(stage)
    if name:
        own = getattr(trainer, name)

        def timed(*given, **named):
            begun = time.perf_counter()
            try:
                return own(*given, **named)
            finally:
                rollouts.append(time.perf_counter() - begun)

        setattr(trainer, name, timed)
    profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])
    calls, seconds, begun = cProfile.Profile(), [], [0.0]

    class Steps(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == 3:
                profiler.start()
            elif state.global_step == 2 and functions:
                calls.enable()
            begun[0] = time.perf_counter()

        def on_step_end(self, args, state, control, **_):
            seconds.append(time.perf_counter() - begun[0])
            if state.global_step == 4:
                profiler.stop()
            elif state.global_step == 3 and functions:
                calls.disable()

    trainer.add_callback(Steps())
    trainer.train()
    if functions:
        pstats.Stats(calls).sort_stats("tottime").print_stats(functions)
    events = [(one.key.removeprefix("aten::"), one.self_cpu_time_total / 1e6) for one in profiler.key_averages()]
    events = [
        (key, spent) for key, spent in events if "#" not in key and not key.startswith(("ProfilerStep", "Optimizer"))
    ]
    shares: dict[str, float] = dict.fromkeys([*GROUPS, "single numbers and the rest", "Python"], 0.0)
    for key, spent in events:
        shares[_group(key)] += spent / seconds[3]
    shares["Python"] = 1 - sum(shares.values())
    most = sorted(events, key=lambda one: -one[1])[:8]
    return {
        "seconds": min(seconds[1:3]),
        "with the profiler": seconds[3],
        "rollout": rollouts[3] / seconds[3] if rollouts else 0.0,
        "operations": sum(one.count for one in profiler.key_averages()),
        "shares": {key: round(share, 3) for key, share in shares.items()},
        "most": {key: round(spent / seconds[3], 3) for key, spent in most},
    }


def _group(key: str) -> str:
    own = key.strip("_")
    for name, words in GROUPS.items():
        if own in words or any(len(word) > 4 and word in own for word in words):
            return name
    return "single numbers and the rest"


def _trainer(stage: str):
    from pipeline.artifact.attempt import Attempt
    from pipeline.plan.planner import Planner
    from pipeline.recipe.reading import load_recipe
    from pipeline.train.job.checked_job import check
    from pipeline.train.job.interruption import Interruption
    from pipeline.train.job.job import Job
    from pipeline.train.stage_run import StageRun

    train: dict = {
        "per_device_train_batch_size": ROWS,
        "save_strategy": "no",
        "eval_strategy": "no",
        "logging_steps": 1,
    }
    if stage == "ppo":
        train |= {"response_length": ANSWER, "total_episodes": 4 * ROWS, "num_ppo_epochs": 1, "num_mini_batches": 1}
    elif stage == "grpo":
        train |= {"max_completion_length": ANSWER, "num_generations": 4, "max_steps": 4}
    else:
        train |= {"max_length": 512, "max_steps": 4}
    section: dict = {"data": {"path": f"{STAGES[stage]}.jsonl", "held_out": 0.0}}
    section["train"] = train
    if stage in SAMPLING:
        section["reward_functions"] = {"brief": {"function": "length", "at_most": 8}}
    recipe = {"name": "small", "threads": 1, "model": {"id": "./base"}, "adapter": {"method": "lora", "r": 16}}
    Path("small.yaml").write_text(json.dumps(recipe | {"evaluation": FREE, "stages": {stage: section}}))
    loaded = load_recipe("small.yaml", [])
    step = Planner(loaded, Path("runs")).plan([stage])[-1]
    folder = Path("out", stage)
    folder.mkdir(parents=True)
    job = Job("small.yaml", [], "runs", stage, str(folder), step.fingerprint, "run")
    run = StageRun(check(job, Attempt(folder)), lambda *_, **__: None, Interruption())
    run.rows.prepare()
    return run.trainer(run.models.at_the_start())


if __name__ == "__main__":
    main()
