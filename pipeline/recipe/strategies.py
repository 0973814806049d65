"""What DeepSpeed is given for a strategy, from strategies.yaml beside this file."""

from pathlib import Path
from typing import Any

import yaml

PRESETS = Path(__file__).with_name("strategies.yaml")


def deepspeed(strategy: str, offload: str | None) -> dict[str, Any]:
    """DeepSpeed's configuration of `zero1`, `zero2` or `zero3`; `auto` in it is for transformers to fill in."""
    presets = yaml.safe_load(PRESETS.read_text(encoding="utf-8"))
    found = presets["each"] | presets[strategy]
    if offload:
        found["zero_optimization"] |= presets["offload"][strategy]
    return found
