"""What goes into the fingerprint of a stage: everything that says *what* is trained, and nothing of how.

`Inputs.of` is the list. Two runs with the same inputs are the same artifact; a key that is left at its default must
leave them as they were, so that artifacts made before it came stay up to date.
"""

from hashlib import sha256
from pathlib import Path

from pipeline.artifact.digests import Digests, canonical
from pipeline.data.read.files import files_of
from pipeline.data.source import Data, Part
from pipeline.data.tokens.template_files import named
from pipeline.model.base import Base
from pipeline.plan.contents import Contents
from pipeline.plan.step import Parent
from pipeline.plan.tuning import Tuning
from pipeline.recipe import keep
from pipeline.recipe.fields import hashed
from pipeline.recipe.recipe import Recipe, StageRecipe
from pipeline.recipe.rewards import Named
from pipeline.stage import specs


class Inputs:
    """The inputs of the stages of one recipe."""

    def __init__(self, recipe: Recipe, digests: Digests, contents: Contents, tuning: Tuning):
        self.recipe, self.digests, self.contents, self.tuning = recipe, digests, contents, tuning

    def of(self, name: str, parent: Parent | None, base: Base, given: dict, reward: Parent | None) -> dict:
        stage, spec = self.recipe.stage(name), specs()[name]
        adapter = self.tuning.of(name, parent)
        changes, learning = self.tuning.changed(name, parent), self.tuning.learning(name, parent)
        return {
            "stage": name,
            "policy": parent.sha256 if parent else None,
            **(self._rewards(name, reward) if spec.rewarded_by else {}),
            "base": base.identity,
            "model": self._model(parent),
            "adapter": adapter,
            **({"adapter_changes": changes} if changes else {}),
            **({"adapter_learning": learning} if learning else {}),
            "data": self.contents.of(name) | _how_read(stage.data),
            "train": hashed(spec.config, given, spec.trained),
            "seed": self.recipe.seed,
            **({"keep": self._keep(stage, given)} if stage.best else {}),
        }

    def _keep(self, stage: StageRecipe, given: dict) -> dict:
        """By what a step is chosen."""
        evaluation = stage.evaluation.model_dump()
        if evaluation["score_function"]:
            file, _, function = evaluation["score_function"].rpartition(":")
            evaluation["score_function"] = {"sha256": self.digests.of(Path(file)), "name": function}
        return keep.inputs(str(stage.best), specs()[stage.name], given, evaluation)

    def _model(self, parent: Parent | None) -> dict:
        model = self.recipe.model
        what: dict = {"dtype": model.dtype, "load_in_4bit": model.load_in_4bit}
        what |= {"load_in_8bit": True} if model.load_in_8bit else {}
        if parent is not None:  # it inherits the others
            return what
        template = sha256(named(model.template).encode()).hexdigest() if model.template else None
        return what | {"template": template, "pad_token": model.pad_token}

    def _rewards(self, name: str, reward: Parent | None) -> dict:
        what: dict = {"reward": reward.sha256 if reward else None, "reward_function": None}
        functions = {one.key: self._reward_function(one) for one in self.recipe.stage(name).rewards}
        if "reward_function" in functions:
            return what | functions
        # By what they are: what the log calls them is no reason to train again.
        return what | ({"reward_functions": list(functions.values())} if functions else {})

    def _reward_function(self, named: Named) -> dict:
        if judge := named.built_in:
            return {"built_in": named.function, "options": judge.model_dump(mode="json"), "weight": named.weight}
        file, _, function = named.function.rpartition(":")
        return {"sha256": self.digests.of(Path(file)), "name": function, "weight": named.weight}


def _how_read(data: Data) -> dict:
    """What makes other rows of the same files."""
    return {
        **({"mixture": [_part(part) for part in data.mixture]} if data.mixture else {}),
        "on_bad_row": data.on_bad_row,
        "on_too_long": data.on_too_long,
        **data.unusual(),
    }


def _part(part: Part) -> dict:
    """How many of the files a part of a mixture has, and how they are read."""
    return {"files": len(files_of(part)), **part.unusual()}


def reference_key(inputs: dict) -> str:
    """What a frozen reference's log-probabilities of the rows depend on.

    Its weights, the rows, and the length they are cut to.
    """
    what = {key: inputs[key] for key in ("policy", "base", "model", "data")}
    what |= {key: inputs["train"].get(key) for key in ("max_length", "ld_alpha")}
    what |= {"outputs": "fp32"}  # before, a CPU took those of bf16 as they were
    return f"reference-{sha256(canonical(what)).hexdigest()[:12]}"
