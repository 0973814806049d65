"""What TRL's scripts reward a response by, as reward functions here. Compared with `trl.rewards` of TRL 1.14.2."""

from pathlib import Path
from typing import Any

from pipeline.start.translation import Translation

KEYS = ("reward_funcs", "reward_model_name_or_path", "reward_weights")
# Its own names, each as a built-in one with its options. The lengths are those that its scripts fix.
_BUILT_IN: dict[str, Any] = {
    "accuracy_reward": {"function": "math", "column": "solution"},
    "think_format_reward": {"function": "format", "pattern": r"(?ms)\A<think>(?!.*<think>)(.*?)</think>.*$"},
    "get_soft_overlong_punishment": {"function": "length", "at_most": 1024, "margin": 256},
}


def translate(t: Translation) -> None:
    _model(t)
    names = t.value("reward_funcs", [])
    names = [str(name) for name in (names if isinstance(names, list) else [names])]
    weights = t.value("reward_weights", [])
    weights = list(weights) if isinstance(weights, list) else [weights]
    if t.value("reward_model_name_or_path") and weights:
        t.to_do.append(f"reward_weights: the first, {weights[0]}, is the reward model's; it counts 1 here.")
        weights = weights[1:]
    for at, name in enumerate(names):
        if (function := _function(t, name)) is not None:
            place = f"reward_functions.{name.rpartition('.')[2]}"
            t.put(place, function, "reward_funcs")
            if at < len(weights):
                t.put(f"{place}.weight", float(weights[at]), "reward_weights")
    if not names and not t.value("reward_model_name_or_path"):
        t.to_do.append("Neither reward_funcs nor reward_model_name_or_path is given: name what rewards a response.")


def _function(t: Translation, name: str) -> dict | None:
    if name in _BUILT_IN:
        if name == "accuracy_reward":
            t.means.append(
                "accuracy_reward: a row whose solution is no mathematics is skipped there; here it is told before anything is "
                "trained, and data.on_bad_row: drop leaves it out."
            )
        return dict(_BUILT_IN[name])
    if "." not in name:
        t.to_do.append(f"reward_funcs: {name} has no like here: write it as a function of yours, my_rewards.py:{name}.")
        t.drop("reward_funcs", f"{name} is not built in")
        return None
    module, _, function = name.rpartition(".")
    file = f"{module.replace('.', '/')}.py"
    if not Path(file).is_file():
        t.to_do.append(f"reward_funcs: {file} is not there from here: put the function's file there, or name its path.")
    t.means.append(
        f"{name}: its completions are texts here, not lists of messages, and it gets the row's further columns by name."
    )
    return {"function": f"{file}:{function}"}


def _model(t: Translation) -> None:
    model = t.value("reward_model_name_or_path")
    if model is None:
        return
    if (Path(str(model)) / "adapter_config.json").is_file():
        t.put("reward", str(model), "reward_model_name_or_path")
    else:
        t.to_do.append(
            f"reward_model_name_or_path: {model}: a reward model is a stage of the chain here, an adapter on the same base: "
            "translate the command that trained it, too (--from reward.sh --from this one), or name its adapter's folder "
            f"as stages.{t.stage}.reward."
        )
        t.drop("reward_model_name_or_path", "is no adapter's folder; see above")
