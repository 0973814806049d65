"""A recipe, one YAML file for a whole chain, as a frozen `Recipe`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PrivateAttr

from pipeline import stage
from pipeline.data.source import Data, EveryData
from pipeline.model.adapters import METHODS
from pipeline.recipe.chain import start_of
from pipeline.recipe.effect import NEVER
from pipeline.recipe.few_shot import why_idle
from pipeline.recipe.fields import DEFAULTS, ON_A_GPU, effective, fields_of, is_listed
from pipeline.recipe.going_on import changes_of, incoming_adapter_of, is_full, learning_of, merged_adapter
from pipeline.recipe.launch import Launch
from pipeline.recipe.owned import OWNED, adapter_owned
from pipeline.recipe.problem import RecipeError
from pipeline.recipe.rewards import Named, named_in
from pipeline.recipe.sections import (
    Adapter,
    Evaluation,
    Keys,
    Model,
    Positive,
    StageSection,
    Switch,
    folder_name,
    not_empty,
)
from pipeline.section import Section, empty_for_null
from pipeline.wording import did_you_mean

BITSANDBYTES = ("8bit", "paged", "bnb", "lion", "ademamix")  # what stands in the names of its optimizers


@dataclass(frozen=True)
class StageRecipe:
    """One stage with all the recipe says of it. `adapter` holds `method` and the fields of its config."""

    name: str
    data: Data
    train: dict[str, Any]
    evaluation: Evaluation
    policy: str | None
    adapter: dict[str, Any]
    rewards: tuple[Named, ...]  # its reward functions
    best: str | None = None  # the figure that decides which step is kept; without one it is the last


class Recipe(Section):
    """One whole chain. Its stages stand in the pipeline's order, whatever theirs was in the file."""

    name: Annotated[str, BeforeValidator(folder_name)]
    """The folder under `runs/`. Left out, the file's name."""
    model: Annotated[Model, BeforeValidator(empty_for_null)]
    """The base that everything stands on."""
    adapter: Annotated[Adapter, BeforeValidator(not_empty)] = Adapter()
    """How the base is tuned, in every stage that says nothing else."""
    use_unsloth: Switch = "auto"
    """Load and run models with Unsloth; `auto` does it where it gains, and `true` is an error where it cannot."""
    on_out_of_memory: Literal["shrink", "stop"] = "shrink"
    """When memory runs out: go on with fewer rows at a time, or stop."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Of everything that is drawn by chance."""
    threads: Positive | None = None
    """CPU threads. Left out, as many as there are cores, 8 at most; several processes share them."""
    launch: Annotated[Launch, BeforeValidator(empty_for_null)] = Launch()
    """By how many processes each stage is trained, on how many machines."""
    data: Annotated[EveryData, BeforeValidator(empty_for_null)] = EveryData()
    """How rows are treated in every stage that says nothing else."""
    train: Annotated[Keys, Field(default_factory=dict)]
    """Fields that the trainers of all stages of the recipe have."""
    evaluation: Annotated[Evaluation, BeforeValidator(empty_for_null)] = Evaluation()
    """How stages are measured, where they say nothing else."""
    stages: Annotated[
        dict[str, Annotated[StageSection, BeforeValidator(empty_for_null)]], BeforeValidator(empty_for_null)
    ]
    """The stages by name. They run in the pipeline's order, whatever theirs is here."""

    _path: Path = PrivateAttr(default=Path())
    _overrides: tuple[str, ...] = PrivateAttr(default=())
    _place: Callable[[Sequence[str]], str] | None = PrivateAttr(default=None)

    @property
    def path(self) -> Path:
        """The file it was read from."""
        return self._path

    @property
    def overrides(self) -> tuple[str, ...]:
        """What was set beside the file, `a.b.c=value`."""
        return self._overrides

    def place(self, *keys: str) -> str:
        """A key with where it was written, for an error that is only found later: `my.yaml:3: model.pad_token`."""
        dotted = ".".join(keys)
        return f"{self._place(keys)}: {dotted}" if self._place else dotted

    def stage(self, name: str) -> StageRecipe:
        """A stage with the recipe's `data`, `train`, `evaluation` and `adapter` under its own."""
        if name not in self.stages:
            raise RecipeError(
                [f"{self.path}: no stage {name} in this recipe{did_you_mean(name, self.stages)}"],
                f"Its stages are {', '.join(self.stages)}; add stages.{name} for another.",
            )
        own, config = self.stages[name], stage.specs()[name].config
        given = self.train | own.train
        if is_listed(config):
            fields = fields_of(config)
            given = {key: fields[key].normalized(value) for key, value in given.items()}
        return StageRecipe(
            name=name,
            data=self.data.under(own.data),
            train=deepcopy(given),
            evaluation=self.evaluation.overridden_by(own.evaluation),
            policy=own.policy,
            adapter=Adapter(**merged_adapter(self.adapter.given, self.own_adapter(name))).resolved(),
            rewards=named_in(own.reward_function, own.reward_function_weight, own.reward_functions),
            best=own.keep.best if own.keep else None,
        )

    def own_adapter(self, name: str) -> dict[str, Any]:
        """What a stage itself says of its adapter."""
        own = self.stages[name].adapter
        return own.given if own else {}

    def incoming_adapter(self, name: str) -> tuple[str | None, dict[str, Any]]:
        """The stage whose adapter goes on in `name`, and that adapter, as far as the recipe alone tells."""
        own = {one: self.own_adapter(one) for one in self.stages}
        return incoming_adapter_of(name, self._policies(), self.adapter.given, own, self.model.config is not None)

    def resolved(self) -> dict[str, Any]:
        """Every key that may be set, with its value, as plain JSON values: a recipe itself, and the same one.

        What it says of all stages stands in each. `ON_A_GPU` are left to the machine where it says nothing.
        """
        said_of_all = {"adapter", "data", "train", "evaluation", "stages", "use_unsloth"}
        whole = self.model_dump(mode="json", exclude=said_of_all)
        return whole | {"stages": {name: self._resolved_stage(name) for name in self.stages}}

    def _resolved_stage(self, name: str) -> dict[str, Any]:
        merged, spec, own = self.stage(name), stage.specs()[name], self.stages[name]
        adapter = self.tuning(name)
        train, evaluation = self.given(name, full=is_full(adapter["method"])), merged.evaluation.model_dump(mode="json")
        if is_listed(spec.config):
            hidden = OWNED.keys() | NEVER.get(spec.config, {}).keys() | (set(ON_A_GPU) - train.keys())
            train = _without(hidden, effective(spec.config, train))
        if config := METHODS[adapter["method"]].config:
            adapter = _without(adapter_owned(config), effective(config, adapter))
        keys = {"reward_functions"} if own.reward_functions else {"reward_function", "reward_function_weight"}
        reward = {"reward": self.reward(name)} | own.model_dump(mode="json", include=keys)
        return {
            "data": merged.data.model_dump(mode="json"),
            "policy": merged.policy or self.parent(name),
            **(reward if spec.rewarded_by else {}),
            "adapter": {"method": adapter["method"]} | adapter,
            "use_unsloth": self.wants_unsloth(name)[0],
            **({"share_prompt": own.share_prompt} if spec.shares_prompt else {}),
            "train": train,
            "evaluation": evaluation | ({"few_shot": 0} if why_idle(name, spec, evaluation) else {}),
            "must_keep": own.must_keep,
            "keep": own.keep.model_dump() if own.keep else None,
        }

    def tuning(self, name: str) -> dict[str, Any]:
        """What is trained in a stage: below an adapter, that one."""
        if self.model.config is not None and self.parent(name) is None and self.stages[name].policy is None:
            return {"method": "full"}
        own = self.stage(name).adapter
        maker, incoming = self.incoming_adapter(name)
        if maker is None or (is_full(own["method"]) and not stage.specs()[name].rewarded_by):
            return own
        changes = changes_of(self.own_adapter(name), incoming["method"]) | learning_of(own, incoming["method"])
        return Adapter(**incoming | changes).resolved()

    def given(self, name: str, *, full: bool) -> dict[str, Any]:
        """A stage's training arguments as far as they differ from TRL's defaults; `full` tuning has no adapter's."""
        spec = stage.specs()[name]
        adapter = {} if full else spec.adapter_defaults
        return DEFAULTS | dict(spec.defaults) | dict(adapter) | self.stage(name).train

    def rows_needed(self, name: str) -> int | None:
        """Of streamed data the sequences that max_steps take in; None where all rows are read."""
        if not self.stages[name].data.streaming:
            return None
        values = effective(stage.specs()[name].config, self.stage(name).train)
        return values["max_steps"] * values["per_device_train_batch_size"] * values["gradient_accumulation_steps"]

    def wants_unsloth(self, name: str) -> tuple[bool | str, bool]:
        """(true, false or "auto", whether the stage itself says so)."""
        own = self.stages[name].use_unsloth
        return (self.use_unsloth, False) if own is None else (own, True)

    def needs_bitsandbytes(self) -> bool:
        """Whether any stage does: loading it costs every process seconds."""
        optimizers = [str(self.stage(name).train.get("optim", "")) for name in self.stages]
        return self.model.bits is not None or any(word in one for one in optimizers for word in BITSANDBYTES)

    def parent(self, name: str) -> str | None:
        """The recipe's stage whose policy `name` starts from; None where that is the base, or a folder."""
        return start_of(name, self._policies())

    def reward(self, name: str) -> str | None:
        """The reward model of a stage: another stage of the recipe, or a folder; None where it has none.

        A reward function stands alone unless the recipe names a model beside it.
        """
        spec, own = stage.specs()[name], self.stages[name]
        if not spec.rewarded_by or own.reward is not None:
            return own.reward
        default = next((one for one in reversed(spec.rewarded_by) if one in self.stages), None)
        return None if own.reward_function or own.reward_functions else default

    def _policies(self) -> dict[str, str | None]:
        return {name: own.policy for name, own in self.stages.items()}


def _without(keys: Iterable[str], values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in keys}
