"""The models of a stage: as training starts from it, as it came out of it, and what scores its responses."""

from dataclasses import replace
from functools import cached_property
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedModel

from pipeline.artifact.attempt import Attempt
from pipeline.model.adapter_tensors import load_adapter
from pipeline.model.adapters import method_on
from pipeline.model.backend import UNSLOTH
from pipeline.model.base import Base
from pipeline.model.loader import Loader
from pipeline.reward.adapter import add_reward
from pipeline.reward.functions import scorers
from pipeline.reward.reward import Reward
from pipeline.train.job.checked_job import CheckedJob
from pipeline.train.rows import StageRows


class StageModels:
    """Loads what a stage trains, anew each time that it is asked."""

    def __init__(self, checked: CheckedJob, rows: StageRows):
        self.checked, self.rows = checked, rows

    def at_the_start(self) -> PreTrainedModel | PeftModel:
        """With a copy of the parent's adapter or a new one, and with the reward model that a stage trains on."""
        checked, step = self.checked, self.checked.step
        makes_one = isinstance(step.inputs["adapter"], dict)
        adapter = checked.settings.adapter if makes_one else step.inputs.get("adapter_changes")
        model = self._loader.model(checked.parent_adapter, adapter)
        return self._rewarded(model)

    def trained(self, start: PreTrainedModel | PeftModel, attempt: Attempt) -> PreTrainedModel | PeftModel:
        """With the weights of a finished attempt: an adapter's are put into the model `start`."""
        output = attempt.output
        if attempt.manifest["output"] == "model":
            return self.on_device(replace(self._loader, base=Base(None, str(output))).model(None, None))
        if method_on(start).converted:
            return self._kept(output)
        load_adapter(start, output)
        return start

    def other(self, start: PreTrainedModel | PeftModel, attempt: Attempt) -> PreTrainedModel | PeftModel:
        """With the weights of a finished attempt of another stage, whose adapter may be another where none goes on."""
        if self.checked.parent_adapter is None and attempt.manifest["output"] != "model":
            return self._kept(attempt.output)
        return self.trained(start, attempt)

    def _kept(self, adapter: Path) -> PeftModel:
        """On a base that is loaded anew: it is another adapter than the one that training starts from."""
        return self.on_device(self._rewarded(self._loader.model(adapter, {})))

    def _rewarded(self, model: PeftModel) -> PeftModel:
        """With the adapter of the reward model, where the stage has one."""
        reward = self.checked.step.reward
        return add_reward(model, reward.folder) if reward else model

    def on_device(self, model):
        in_place = self.checked.recipe.model.bits
        return model if in_place else model.to(self.checked.machine["device"])

    @cached_property
    def reward(self) -> Reward | None:
        """What scores a response, where the stage trains on a reward."""
        checked = self.checked
        if not checked.spec.rewarded_by:
            return None
        functions = scorers(checked.job.stage, checked.settings.rewards)
        return Reward(self.rows.tokenizer.tokenizer, use_model=checked.step.reward is not None, functions=functions)

    @cached_property
    def _loader(self) -> Loader:
        checked, model = self.checked, self.checked.recipe.model
        return Loader(
            model,
            checked.recipe.seed,
            checked.step.base,
            self.rows.tokenizer,
            checked.spec.head,
            self._for_unsloth(),
            on_cpu=checked.ranks.sharded,
        )

    def _for_unsloth(self) -> dict | None:
        """What Unsloth's loader is told, where it is the backend."""
        checked = self.checked
        if checked.job.backend != UNSLOTH:
            return None
        checkpointing = checked.step.given.get("gradient_checkpointing", checked.machine["device"] == "cuda")
        return {
            "max_seq_length": self.rows.max_length() or self.rows.positions() or 2048,
            "use_gradient_checkpointing": "unsloth" if checkpointing else False,
        }
