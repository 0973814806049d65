"""What a stage is rewarded by: a reward model, and functions that are each a file's or built in. With all that is wrong about them."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError

from pipeline import stage
from pipeline.recipe.problem import Problem
from pipeline.reward.verifiable import BUILT_IN, Verifiable
from pipeline.section import Section
from pipeline.wording import did_you_mean, must_be

MODEL = "model"  # the reward model's own name in a log
SECONDS = 120.0  # a function's answer may take, for all responses of a rollout


class RewardFunction(Section):
    """One of several: `function` is a function in a file, or the name of a built-in one, whose options stand beside it."""

    model_config = ConfigDict(extra="allow")

    function: str
    """A function in a file (`rewards.py:exact_match`), or the name of a built-in one."""
    weight: float = 1.0
    """What its reward is multiplied by before all are added."""
    timeout: Annotated[float, Field(gt=0)] = SECONDS
    """Seconds that it may take for all responses of a rollout."""

    @property
    def named(self) -> "Named":
        return Named("", "", self.function, self.weight, self.timeout, dict(self.model_extra or {}))


def in_file(value: object) -> bool:
    """Whether a function is named by its file."""
    return isinstance(value, str) and re.fullmatch(r".+\.py:[A-Za-z_]\w*", value) is not None


def function_in_file(value: object) -> object:
    if value is None or in_file(value):
        return value
    raise ValueError(must_be("a function in a file, such as score.py:score", value))


def _by_name(value: object) -> object:
    """A function alone stands for itself with weight 1."""
    if isinstance(value, dict):
        return {name: {"function": one} if isinstance(one, str) else one for name, one in value.items()}
    if isinstance(value, list | str):
        raise ValueError(
            must_be("a mapping of names to functions, such as {right: number, mine: score.py:score}", value)
        )
    return value


RewardFunctions = Annotated[dict[str, RewardFunction] | None, BeforeValidator(_by_name)]


@dataclass(frozen=True)
class Named:
    """A reward function of a stage, wherever the recipe names it."""

    key: str  # of the stage, that names it
    name: str  # in the log
    function: str
    weight: float
    timeout: float  # seconds
    options: Mapping[str, Any]

    @property
    def is_in_file(self) -> bool:
        return in_file(self.function)

    @property
    def built_in(self) -> Verifiable | None:
        """What judges a response, where it is no function of a file."""
        return None if self.is_in_file else BUILT_IN[self.function](**self.options)


def named_in(alone: str | None, weight: float, several: Mapping[str, RewardFunction] | None) -> tuple[Named, ...]:
    """All reward functions of a stage: the one that stands alone, or several."""
    if alone:
        return (Named("reward_function", alone.rpartition(":")[2], alone, weight, SECONDS, {}),)
    return tuple(
        Named(f"reward_functions.{name}", name, one.function, one.weight, one.timeout, dict(one.model_extra or {}))
        for name, one in (several or {}).items()
    )


def reward_problems(name: str, own: Mapping[str, Any], stages: Iterable[str]) -> Iterator[Problem]:
    """What is wrong with what a stage says of its rewards. Takes a stage of any shape."""
    where, spec, reward = ("stages", name), stage.specs()[name], own.get("reward")
    keys = ("reward", "reward_function", "reward_function_weight", "reward_functions")
    if not spec.rewarded_by:
        others = [other for other, one in stage.specs().items() if one.rewarded_by]
        for key in keys:
            if own.get(key) is not None:
                yield (*where, key), f"{name} takes no reward; it belongs to {', '.join(others)}"
        return
    functions = [key for key in ("reward_function", "reward_functions") if own.get(key) is not None]
    if isinstance(reward, str):
        named = stage.specs().get(reward)
        if named and named.head != "score":
            yield (*where, "reward"), f"{reward} trains a policy, not a reward model"
        elif reward not in stages and not Path(reward).expanduser().is_dir():
            yield (*where, "reward"), f"{reward} is neither a stage of this recipe nor a folder"
    elif reward is None and not functions and not set(spec.rewarded_by) & set(stages):
        ways = "reward: a folder, reward_function or reward_functions"
        yield where, f"needs a reward: a stage {' or '.join(spec.rewarded_by)}, {ways}"
    if len(functions) > 1:
        yield (*where, "reward_function"), "stands beside reward_functions; give it a name there"
    if own.get("reward_function_weight", 1) not in (None, 1) and "reward_function" not in functions:
        yield (*where, "reward_function_weight"), "cannot take effect: there is no reward_function to weigh"
    if isinstance(own.get("reward_functions"), dict):
        for one, value in own["reward_functions"].items():
            yield from _function_problems((*where, "reward_functions", one), one, value)
    adapter = own.get("adapter")
    if isinstance(adapter, dict) and adapter.get("method") == "full":
        yield (*where, "adapter", "method"), f"{name} trains an adapter: its roles share one frozen base"


def _function_problems(where: tuple, name: object, value: object) -> Iterator[Problem]:
    given = {"function": value} if isinstance(value, str) else value
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][\w-]*", name) or name == MODEL:
        what = (
            f"{name} is the reward model's own name" if name == MODEL else must_be("a name of letters and digits", name)
        )
        yield where, f"{what}; it is how the log calls the function"
    if not isinstance(given, dict) or not isinstance(given.get("function"), str):
        return  # what its section says of it
    function = given["function"]
    if not in_file(function) and function not in BUILT_IN:
        hint = did_you_mean(function, BUILT_IN)
        said = f"{function} is neither a function in a file, such as score.py:score, nor built in"
        yield (*where, "function"), f"{said} ({', '.join(BUILT_IN)}){hint}"
        return
    options = {key: one for key, one in given.items() if key not in RewardFunction.model_fields}
    if in_file(function):
        for key in options:
            yield (*where, key), f"unknown key{did_you_mean(str(key), RewardFunction.model_fields)}"
    else:
        yield from _option_problems(where, function, options)


def _option_problems(where: tuple, function: str, options: Mapping[str, Any]) -> Iterator[Problem]:
    kind = BUILT_IN[function]
    known = ", ".join(kind.model_fields) or "none"
    try:
        kind(**{str(key): value for key, value in options.items()})
    except ValidationError as error:
        for one in error.errors(include_url=False):
            key = one["loc"][0]
            said = one["msg"].replace("Input should", "must").removeprefix("Value error, ")
            if one["type"] == "extra_forbidden":
                hint = did_you_mean(str(key), (*kind.model_fields, *RewardFunction.model_fields))
                said = f"unknown key{hint} (the options of {function}: {known})"
            elif one["type"] == "missing":
                said = f"is missing; {function} needs it"
            yield (*where, key), said
