"""What the engine knows of a stage, found by name: one module of `stages/` each."""

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import stages


@dataclass(frozen=True)
class Spec:
    """A stage as the plan sees it. Light: reading it imports neither torch nor TRL."""

    config: str  # the name of its trainer's config class
    row_kind: str  # the kind of row it trains on, a file of data/shapes/kinds/
    after: tuple[str, ...]  # the parent is the last of these that the recipe has
    home: str = "trl"  # the module that has its config
    head: str = "causal"  # "causal", or "score" for a reward model, which is never a policy
    rewarded_by: tuple[str, ...] = ()  # its reward model is the last of these that the recipe has
    response: str | None = None  # the field of its config that says how long a response may be, where it samples them
    reference: bool = False  # whether a frozen copy of the parent stands beside the policy
    reference_columns: tuple[
        str, ...
    ] = ()  # what TRL calls the reference's log-probabilities of a row, to be computed once
    in_parts: bool = False  # whether it can be trained where each process holds a part of the model
    shares_prompt: bool = False  # whether a pair's prompt can be run once for both answers
    zero_at_first: tuple[str, ...] = ()  # figures of TRL's that are 0 as long as the policy is its reference
    trained: tuple[str, ...] = ()  # fields that say elsewhere how, and in this stage what is trained
    of_a_piece: tuple[str, ...] = ()  # losses that go by the tokens or rows of a piece of a step; "" is its only loss
    least: Mapping[str, int] = field(default_factory=dict)  # the least that a field may be in this stage
    key_figures: tuple[str, ...] = ()  # what the progress display shows beside the loss
    defaults: Mapping[str, Any] = field(default_factory=dict)  # of `train`: what makes the trainer this stage's
    adapter_defaults: Mapping[str, Any] = field(default_factory=dict)  # TRL's defaults are meant for full tuning

    def cut_counts(self, values: Mapping[str, Any]) -> bool:
        """Whether the same step, cut into other pieces, would teach otherwise. `values` are the arguments with their defaults.

        Without the rows that fill no piece there are other numbers of steps.
        """
        return self.goes_by_piece(values) or self.piece_of_all or bool(values.get("dataloader_drop_last"))

    def goes_by_piece(self, values: Mapping[str, Any]) -> bool:
        """Whether its loss goes by the tokens or rows of each piece of a step."""
        said = values.get("loss_type") or ""
        losses = {said} if isinstance(said, str) else set(said)
        return bool(losses & set(self.of_a_piece) or values.get("cpo_alpha"))

    @property
    def piece_of_all(self) -> bool:
        """Whether what is estimated of a piece is estimated of those of all processes together."""
        return "per_device_train_batch_size" in self.trained


def objective(name: str) -> str:
    """What a stage does, by the first line of its own file; nothing of one that is not there."""
    said = importlib.import_module(f"stages.{name}").__doc__ if name in specs() else ""
    return (said or "").strip().partition("\n")[0].rstrip(".")


@cache
def specs() -> dict[str, Spec]:
    """Every stage there is, parents before children."""
    modules = [importlib.import_module(f"stages.{m.name}") for m in pkgutil.iter_modules(stages.__path__)]
    found = {module.__name__.removeprefix("stages."): module.SPEC for module in modules}
    ordered: dict[str, Spec] = {}
    while len(ordered) < len(found):
        ready = [name for name, spec in found.items() if name not in ordered and set(spec.after) <= set(ordered)]
        if not ready:
            raise ValueError(f"the stages' `after` form a circle: {sorted(set(found) - set(ordered))}")
        ordered |= {name: found[name] for name in ready}
    return ordered
