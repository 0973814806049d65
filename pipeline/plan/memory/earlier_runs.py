"""What earlier runs on this machine tell: how far the plan was off, and how fast a stage trains."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.artifact.manifest import MANIFEST
from pipeline.plan.memory import lengths
from pipeline.plan.planner import Planner
from pipeline.plan.step import CONTINUE, RUN, Step
from pipeline.recipe.fields import effective
from pipeline.stage import specs

LOOKED_AT = 40  # manifests, the newest ones
ENOUGH = 3  # runs, before the plan takes their word for its own
SANE = (0.8, 2.0)  # beyond it something else took the memory, or another process


@dataclass(frozen=True)
class EarlierRuns:
    """The newest manifests of a runs folder."""

    runs: Path

    @cached_property
    def _manifests(self) -> list[tuple[Path, dict]]:
        files = sorted(self.runs.glob(f"*/*/*/{MANIFEST}"), key=lambda file: file.stat().st_mtime, reverse=True)
        return [(file, said) for file in files[:LOOKED_AT] if (said := _read(file))]

    def margin(self) -> float | None:
        """How many times what was planned a GPU here had to reserve, in the worst of the runs that tell; None where too few do.

        Those of one process alone: what others add (buffers of NCCL) is no matter of fragments.
        """
        ratios = []
        for _, said in self._manifests:
            if not _alone(said):
                continue
            memory = said.get("memory") or {}
            planned, reserved = memory.get("planned"), (said.get("peak_bytes") or {}).get("gpu_reserved")
            if planned and reserved and SANE[0] <= reserved / planned <= SANE[1]:
                ratios.append(reserved / planned)
        return max(ratios) if len(ratios) >= ENOUGH else None

    def seconds(self, planner: Planner, step: Step) -> float | None:
        """About how long a stage will train, by the speed of the last run of it, or of another on the same base; None where
        no run tells.
        """
        if step.state not in (RUN, CONTINUE):
            return None
        for said in self._alike(planner, step):
            trained, seconds = said.get("tokens"), said["seconds"]["training"]
            tokens = _tokens(planner, step, said)
            if trained and seconds and tokens:
                return tokens / trained * seconds
        return None

    def _alike(self, planner: Planner, step: Step) -> Iterator[dict]:
        own = planner.folder / step.stage
        same = [said for file, said in self._manifests if file.parent.parent == own]
        base = step.base.identity if step.base else None
        others = [said for _, said in self._manifests if base and said.get("inputs", {}).get("base") == base]
        for said in (*same, *others):
            like = _alone(said) == (planner.recipe.launch.size == 1)
            if said["stage"] == step.stage and "tokens" in said and like:
                yield said


def _alone(said: Mapping) -> bool:
    """Whether it was trained by one process."""
    return said.get("run", {}).get("processes", 1) == 1


def _tokens(planner: Planner, step: Step, said: Mapping) -> float | None:
    """How many a stage will train on; of answers that it samples as many each as in the earlier run."""
    spec = specs()[step.stage]
    train = effective(spec.config, planner.recipe.stage(step.stage).train)
    batch = train["per_device_train_batch_size"] * train["gradient_accumulation_steps"]
    rows = lengths.known(planner, step.stage)
    if not rows or not rows.get("rows"):
        return None
    steps = rows["rows"] / batch * train["num_train_epochs"]
    steps = train["max_steps"] if train["max_steps"] > 0 else steps
    if not spec.response:
        return rows["tokens"] / rows["rows"] * batch * steps
    asked = train.get("total_episodes")
    if "num_ppo_epochs" in train:
        episodes = asked or rows["rows"] * train["num_train_epochs"]
        steps = episodes / (batch * train["num_mini_batches"]) * train["num_ppo_epochs"] * train["num_mini_batches"]
    elif train["max_steps"] <= 0:
        steps *= train["num_generations"]
    return said["tokens"] / max(said["steps"], 1) * steps


def _read(file: Path) -> dict | None:
    """A manifest, unchecked: it only advises here."""
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        return said if said["seconds"]["training"] >= 0 and said["stage"] and said["steps"] >= 0 else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
