"""What other tools call the way in which several processes hold a model: what it is here, and what is to be said for it."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pipeline.recipe import yaml_lines
from pipeline.recipe.launch import ZERO
from pipeline.start.translation import Translation

DEEPSPEED, FSDP = "deepspeed", ("fsdp", "fsdp_config", "fsdp_version")


def handlers(t: Translation) -> dict[str, Callable[[object], None]]:
    """Of the keys that all of them have. How many processes there are such a file does not say."""
    return {DEEPSPEED: partial(_deepspeed, t)} | {key: partial(_fsdp, t, key) for key in FSDP}


def _deepspeed(t: Translation, file: object) -> None:
    stage, waits, there = _of_deepspeed(file)
    if stage is None:
        _say(t, DEEPSPEED, file, f"for several GPUs, --processes auto, and a --strategy of {', '.join(ZERO)}.")
        return
    more = f", with launch.deepspeed: {file} for its other switches" if there else ""
    offload = ", and launch.offload: cpu" if waits and not there else ""
    _say(t, DEEPSPEED, file, f"for several GPUs, --processes auto --strategy zero{stage}{more}{offload}.")


def _fsdp(t: Translation, key: str, value: object) -> None:
    if key != next(one for one in FSDP if one in t.given):  # the first of them that is there speaks for all
        t.drop(key, "what several processes hold is said by launch")
        return
    of_all = " ".join(str(t.value(one)) for one in FSDP)
    offload = ", and launch.offload: cpu" if re.search(r"offload(?!_params': False)", of_all) else ""
    _say(
        t, key, value, f"for several GPUs, --processes auto --strategy fsdp{offload}; each layer is a unit of its own."
    )


def _say(t: Translation, key: str, value: object, what: str) -> None:
    shown = value if isinstance(value, str) else "..."
    t.to_do.append(f"{key}: {shown}: {what} One GPU needs none of it.")
    t.drop(key, "what several processes hold is said by launch")


def _of_deepspeed(file: object) -> tuple[int | None, bool, bool]:
    """(the stage of ZeRO, whether anything waits in the host's memory, whether the file is there) of a file of DeepSpeed's, by
    what it says, or else by its name.
    """
    path = Path(str(file)).expanduser()
    if isinstance(file, dict) or path.is_file():
        said = (
            file if isinstance(file, dict) else yaml_lines.load(path.read_text(encoding="utf-8-sig"), str(path)).value
        )
        zero = said.get("zero_optimization", {}) if isinstance(said, dict) else {}
        stage = zero.get("stage")
        return stage if stage in (1, 2, 3) else None, "'cpu'" in str(zero), not isinstance(file, dict)
    found = re.search(r"z(?:ero)?[-_]?(?:stage)?[-_]?([123])", path.name.lower())
    return int(found[1]) if found else None, "offload" in path.name or "cpu" in path.name, False
