"""What a checkpoint of PPO keeps beside the policy, the optimizer and the random state: all that the next step needs."""

import json
from collections import defaultdict
from pathlib import Path

from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.ppo import roles
from pipeline.ppo.arithmetic import RunningScale
from pipeline.ppo.experience import Experience
from pipeline.ppo.history import History
from pipeline.ppo.rollout import Rollout

STATE = "ppo.json"
TENSORS = "ppo.safetensors"  # of the value model and the rollout, each under its prefix
VALUE, ROLLOUT = "value/", "rollout/"


def save(folder: Path, model: PeftModel, experience: Experience, history: History) -> None:
    tensors = {f"{VALUE}{name}": tensor.cpu() for name, tensor in roles.save_value(model).items()}
    if experience.rollout is not None:
        tensors |= {f"{ROLLOUT}{name}": tensor for name, tensor in experience.rollout.tensors().items()}
    save_file(tensors, folder / TENSORS)
    state = {
        "rollout": experience.number,
        "kl_coefficient": experience.kl.coefficient,
        "scale": vars(experience.scale),
        "history": history.rollouts,
        "warned": sorted(history.warned),
        "sums": history.sums,
    }
    (folder / STATE).write_text(json.dumps(state), encoding="utf-8")


def load(folder: Path, model: PeftModel, experience: Experience, history: History) -> None:
    state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    tensors = load_file(folder / TENSORS)
    roles.load_value(model, _under(VALUE, tensors))
    rollout = _under(ROLLOUT, tensors)
    experience.rollout, experience.number = Rollout(**rollout) if rollout else None, state["rollout"]
    experience.kl.coefficient = state["kl_coefficient"]
    experience.scale = RunningScale(**state["scale"])
    history.rollouts, history.warned = state["history"], set(state["warned"])
    history.sums = defaultdict(list, state["sums"])


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
