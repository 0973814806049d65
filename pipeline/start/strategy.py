"""What other tools call the way in which several processes hold a model: what it is here, and what is to be said for it."""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from pipeline.recipe import strategies
from pipeline.recipe.launch import ZERO
from pipeline.start.translation import Translation

DEEPSPEED, FSDP = "deepspeed", ("fsdp", "fsdp_config", "fsdp_version")


def handlers(t: Translation) -> dict[str, Callable[[object], None]]:
    """Of the keys that all of them have. How many processes there are such a file does not say."""
    return {DEEPSPEED: partial(_deepspeed, t), **{key: partial(_fsdp, t, key) for key in FSDP}}


def _deepspeed(t: Translation, file: object) -> None:
    if file is False:
        t.off.append(DEEPSPEED)
        return
    stage, waits, there = _of_deepspeed(file)
    if stage is None:
        _say(t, DEEPSPEED, file, f"for several GPUs, --processes auto, and a --strategy of {', '.join(ZERO)}.")
        return
    more = f", with launch.deepspeed: {file} for its other switches" if there else ""
    offload = ", and launch.offload: cpu" if waits and not there else ""
    _say(t, DEEPSPEED, file, f"for several GPUs, --processes auto --strategy zero{stage}{more}{offload}.")


def _fsdp(t: Translation, key: str, value: object) -> None:
    if value is False:
        t.off.append(key)
        return
    if key != next(one for one in FSDP if t.value(one)):  # the first of them that says anything speaks for all
        t.drop(key, "what several processes hold is said by launch")
        return
    offload = ", and launch.offload: cpu" if any(_offloads(t.value(one)) for one in FSDP) else ""
    _say(
        t, key, value, f"for several GPUs, --processes auto --strategy fsdp{offload}; each layer is a unit of its own."
    )


def _say(t: Translation, key: str, value: object, what: str) -> None:
    shown = value if isinstance(value, str) else "..."
    t.to_do.append(f"{key}: {shown}: {what} One GPU needs none of it.")
    t.drop(key, "what several processes hold is said by launch")


def _offloads(value: object) -> bool:
    """Of a list of words, a mapping, or either of them as text; a file's name says nothing."""
    if isinstance(value, str):
        with suppress(ValueError):
            value = json.loads(value)
    if isinstance(value, dict):
        return any("offload" in str(key) and str(one).lower() == "true" for key, one in value.items())
    words = value if isinstance(value, list) else str(value).split()
    return "offload" in words


def _of_deepspeed(file: object) -> tuple[int | None, bool, bool]:
    """(the stage of ZeRO, whether anything waits in the host's memory, whether the file is there) of a file of DeepSpeed's, by
    what it says, or else by its name.
    """
    if isinstance(file, dict):
        return *_of_zero(file), False
    try:
        return *_of_zero(strategies.read(str(file)).value), True
    except (OSError, UnicodeDecodeError):
        name = Path(str(file)).name
        found = re.search(r"z(?:ero)?[-_]?(?:stage)?[-_]?([123])", name.lower())
        return int(found[1]) if found else None, "offload" in name, False


def _of_zero(said: object) -> tuple[int | None, bool]:
    zero = said.get("zero_optimization") if isinstance(said, dict) else None
    if not isinstance(zero, dict):
        return None, False
    waits = [one for key, one in zero.items() if str(key).startswith("offload_") and isinstance(one, dict)]
    stage = zero.get("stage")
    return stage if stage in (1, 2, 3) else None, any(one.get("device", "none") != "none" for one in waits)
