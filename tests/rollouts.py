"""The micro recipe with the stages that sample several responses to a prompt."""

import json
import shutil
from pathlib import Path

from conftest import write_micro, write_rows

GROUPS = ("rloo", "grpo")
COMMON_LENGTH = " max_length: 48,"  # of which these stages have none
STAGES = """\
  rloo:
    data: {path: prompts.jsonl, held_out: 0.2}
    reward_functions: {right: {function: exact_match, pattern: '^[a-z]+'}, brief: {function: length, at_most: 3, weight: 0.5}}
    train: {num_generations: 2, max_completion_length: 6, save_steps: 1, logging_steps: 3, save_total_limit: 100}
  grpo:
    data: {path: prompts.jsonl, held_out: 0.2}
    reward: reward
    reward_functions: {right: {function: exact_match, pattern: '^[a-z]+', weight: 2}}
    train: {num_generations: 4, max_completion_length: 6, beta: 0.1, num_iterations: 2, steps_per_generation: 4,
            gradient_accumulation_steps: 2, save_steps: 1, logging_steps: 3, save_total_limit: 100}
"""


def write_rollouts(
    folder: Path, chain: Path | None = None, parents: tuple[str, ...] = ("pretrain", "sft", "reward")
) -> Path:
    """The recipe and its data; with a finished chain's parents, which are up to date in it."""
    recipe = write_micro(folder)
    text = recipe.read_text().replace(COMMON_LENGTH, "")
    for name in ("pretrain", "sft", "reward", "dpo"):
        line = next(one for one in text.splitlines() if one.startswith(f"  {name}: {{data:"))
        text = text.replace(line, line[:-1] + ", train: {max_length: 48}}")
    recipe.write_text(text.replace("response_length: 6", "max_length: 48, response_length: 6") + STAGES)
    asked = [json.loads(line) for line in (folder / "chat.jsonl").read_text().splitlines()]
    rows = [{"prompt": row["prompt"], "answer": row["completion"].partition(",")[0]} for row in asked]
    write_rows(folder / "prompts.jsonl", rows)
    for parent in parents if chain else ():
        shutil.copytree(chain / "runs/micro" / parent, folder / "runs/micro" / parent, symlinks=True)
    return recipe
