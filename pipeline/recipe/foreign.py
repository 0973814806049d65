"""Keys of other tools, and what they are here: told from other_tools.yaml, which is read when a key is unknown."""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml

from pipeline import stage
from pipeline.model.adapters import METHODS
from pipeline.recipe.owned import by_name

LLAMA_FACTORY, AXOLOTL, TRL = "LLaMA-Factory", "Axolotl", "TRL"


class Words(NamedTuple):
    """Names of other tools: the key that says the same, what to write as its value, and what to say where there is none."""

    means: Mapping[str, str]
    values: Mapping[str, str]
    answers: Mapping[str, str]
    lost: frozenset[str]  # of those with an answer, what trains otherwise where it is left out


@cache
def words() -> Words:
    said = yaml.safe_load((Path(__file__).parent / "other_tools.yaml").read_text("utf-8"))
    values, answers = (by_name({entry["say"]: entry["of"] for entry in said[part]}) for part in ("values", "answers"))
    lost = frozenset(name for entry in said["answers"] if entry.get("lost") for name in entry["of"].split())
    return Words(by_name(said["means"]), values, answers, lost)


_ADDED = "loss_type: [sigmoid, sft], loss_weights: [1.0, {}]"
_LAST = "with method: freeze; the last layers alone, and not the first"


def _is_number(value: object) -> bool:
    return isinstance(value, int) and value >= 1


def _modules(value: object) -> str | None:
    """How target modules are written that were one text."""
    if not isinstance(value, str):
        return None
    names = [name.strip() for name in value.split(",")]
    return f"its value is {'all-linear' if value == 'all' else '[' + ', '.join(names) + ']'}"


def _weighed(value: object) -> str:
    return _ADDED.format(value if isinstance(value, int | float) else "its value")


# Where what to write instead depends on the value that was given.
BY_VALUE: dict[str, Callable[[object], str | None]] = {
    "group_by_length": lambda value: f"its value is {'group_by_length, the default' if value else 'random'}",
    "quantization_bit": lambda value: (
        "its value is true" if value in (4, 8) else "true or false; a base is loaded whole, in 4 bit or in 8"
    ),
    **dict.fromkeys(("lora_target", "oft_target", "lora_target_modules"), _modules),
    "finetuning_type": lambda value: f"adapter: {{method: {value}}}" if value in METHODS else None,
    **dict.fromkeys(
        ("freeze_trainable_layers", "num_layer_trainable"),
        lambda value: f"adapter: {{method: freeze, layers: {value}}}" if _is_number(value) else _LAST,
    ),
    **dict.fromkeys(("rpo_alpha", "pref_ftx", "dpo_ftx"), _weighed),
}

# Methods, by the names that others have for them: stages here, as far as there are such, or losses of one.
_STAGES = by_name(
    {"pretrain": "pt", "reward": "rm reward_modeling", "dpo": "ipo hinge", "kto": "kto_pair", "simpo": "cpo"}
)
_METHODS = {name: name for name in "pretrain sft reward dpo kto orpo simpo grpo rloo ppo".split()} | _STAGES
_LOSSES = ("ipo", "hinge")
# Keys whose value is a method.
_NAME_A_METHOD = ("rl", "stage", "training_stage", "pref_loss", "dpo_loss")


def tool_of(given: Mapping) -> str | None:
    """The tool whose training file has such keys; None where it is none that is known."""
    keys = given.keys()
    if "model_name_or_path" in keys and {"stage", "finetuning_type", "dataset", "template"} & keys:
        return LLAMA_FACTORY
    if "base_model" in keys:
        return AXOLOTL
    return TRL if "dataset_name" in keys or {"model_name_or_path", "datasets"} <= keys else None


def nearest_key(key: str, section: str, value: object = None) -> str:
    """The key that says the same, with its section where it has to be another; else the key itself."""
    means = words().means
    return means.get(f"{key}={value}") or means.get(f"{section}.{key}") or means.get(key, key)


def is_known(key: str) -> bool:
    """Whether it is a key of another tool."""
    return key in words().means or answer(key) is not None


def answer(key: str) -> str | None:
    """What to say of a key that nothing here corresponds to; None where it is not known."""
    return next((what for name, what in words().answers.items() if fnmatchcase(key, name)), None)


def trains_otherwise(key: str) -> bool:
    """Whether something else is trained where a key that has an answer is left out."""
    name = next((name for name in words().answers if fnmatchcase(key, name)), None)
    return name in words().lost


def note(key: str, value: object) -> str | None:
    """What to write instead of a value, where the key that says the same takes another one."""
    return BY_VALUE[key](value) if key in BY_VALUE else words().values.get(key)


def method_of(key: str, value: object) -> str | None:
    """What to say of a key whose value names a method; None where it does not, or the method is not known."""
    word = value.lower() if isinstance(value, str) else ""
    if key not in _NAME_A_METHOD or word not in _METHODS:
        return None
    meant = _METHODS[word]
    if meant not in stage.specs():
        return f"is not there: no stage is {word} (there are {', '.join(stage.specs())})"
    loss = f", with train.loss_type: {word}" if word in _LOSSES else ""
    return f"is not needed: a stage stands by its name under stages, here as stages.{meant}{loss}"


def loss_meant(word: str) -> str | None:
    """What to say of a loss that is a method of its own; None where it is none."""
    if word not in _METHODS or word in _LOSSES:
        return None
    if word == "dpo":
        return "must be one of its losses; that of DPO's own paper is sigmoid"
    meant = _METHODS[word]
    there = f"stages.{meant}" if meant in stage.specs() else f"no stage (there are {', '.join(stage.specs())})"
    return f"{word} is no loss here but a method of its own, and that is {there}"
