"""How many optimizer steps a stage has, as far as its training arguments and the number of its rows tell."""

import math
from collections.abc import Mapping
from typing import Any


def written(values: Mapping[str, Any]) -> int | None:
    """As many as max_steps says, or fewer where PPO's total_episodes end sooner; None where the rows decide.

    `values` are all fields of the stage's config.
    """
    steps = values["max_steps"]
    if not isinstance(steps, int) or steps < 1:
        return None
    return min(steps, of_episodes(values) or steps)


def of_episodes(values: Mapping[str, Any]) -> int | None:
    """Those that PPO's total_episodes take, in whole rollouts; None where nothing is said of them."""
    if not (episodes := values.get("total_episodes")):
        return None
    rollout = values["per_device_train_batch_size"] * values["gradient_accumulation_steps"] * values["num_mini_batches"]
    return max(math.ceil(episodes / rollout), 1) * values["num_ppo_epochs"] * values["num_mini_batches"]


def of_rows(values: Mapping[str, Any], rows: int) -> int:
    """Those of a stage that trains on so many rows, in passes over them; with packing they may be fewer."""
    each, passes = values["per_device_train_batch_size"], values["gradient_accumulation_steps"]
    batches = rows // each if values["dataloader_drop_last"] else math.ceil(rows / each)
    return written(values) or math.ceil(values["num_train_epochs"] * max(math.ceil(batches / passes), 1))
