"""What a stage trains: every weight, a new adapter or its parent's that goes on; what cannot be is refused."""

from pipeline.errors import PipelineError
from pipeline.model.adapters import METHODS, NAMED, method_of
from pipeline.plan.methods import tuning
from pipeline.plan.step import Parent, Step
from pipeline.recipe.fields import fields_of, hashed
from pipeline.recipe.going_on import is_full, learning_of, unchangeable
from pipeline.recipe.recipe import Recipe
from pipeline.stage import specs


class Tuning:
    """What the stages of one recipe train."""

    def __init__(self, recipe: Recipe):
        self.recipe = recipe

    def of(self, name: str, parent: Parent | None) -> dict | str:
        """What the fingerprint says of it."""
        if self.trains_model(name, parent):
            return self._numbered(name, parent) or "all weights"
        if parent and not parent.is_model:
            return "the parent's"
        fields = dict(self.recipe.stage(name).adapter)
        method = METHODS[fields.pop("method")]
        return {"method": method.name} | hashed(method.config_name, fields)

    def _numbered(self, name: str, parent: Parent | None) -> dict | None:
        """Of a method that trains a part of the model's own weights what it says; a model from scratch is trained whole."""
        adapter = dict(self.recipe.stage(name).adapter)
        from_scratch = parent is None and self.recipe.model.config is not None
        return adapter if METHODS[adapter["method"]].numbers and not from_scratch else None

    def changed(self, name: str, parent: Parent | None) -> dict:
        """What a stage sets on the adapter of its parent that goes on, as far as that has it otherwise."""
        if not parent or parent.is_model:
            return {}
        own, has = self.recipe.own_adapter(name), parent.adapter_config
        method = method_of(has["peft_type"])
        keys = method.changeable if method else ()
        return {key: float(own[key]) for key in keys if key in own and own[key] != has.get(key)}

    def learning(self, name: str, parent: Parent | None) -> dict[str, float]:
        """How the adapter is trained beside what the arguments say, as far as that is not the default."""
        if self.trains_model(name, parent):
            return {}
        method, _ = tuning(self.recipe, name, parent)
        said = learning_of(self.recipe.stage(name).adapter, method.name)
        return {key: value for key, value in said.items() if value != method.learning[key]}

    def trains_model(self, name: str, parent: Parent | None) -> bool:
        """Whether the stage trains every weight, not an adapter. Raises PipelineError where it cannot."""
        if parent is None and self.recipe.model.config is not None:
            if specs()[name].rewarded_by:
                raise PipelineError(
                    f"{name}: has no policy to start from: a model made from model.config has learned nothing yet.",
                    "Add a stage before it, such as sft, or name a policy.",
                )
            return True  # from scratch: there is nothing to adapt
        method = self.recipe.stage(name).adapter["method"]
        full = is_full(method)
        if full and specs()[name].rewarded_by:
            return False  # its parent's adapter goes on, whatever the rest of the recipe tunes; see `methods.refuse`
        if full and parent and not parent.is_model:
            raise PipelineError(
                f"{name}: adapter.method full on top of the adapter of {parent.stage or parent.folder}: that would "
                "have to be merged into the base first, and nothing is ever merged on the way.",
                "Use it in every stage, or an adapter in this one.",
            )
        return full

    def check(self, name: str, parent: Parent | None, above: Step | None) -> None:
        """Refuse what a stage says of its adapter where an adapter goes on that has it otherwise.

        Between stages of the recipe that was done when it was read.
        """
        if not parent or parent.is_model or (above and self.recipe.incoming_adapter(name)[0]):
            return
        has, own = parent.adapter_config, self.recipe.own_adapter(name)
        method, wanted = method_of(has["peft_type"]), self.recipe.stage(name).adapter["method"]
        if method is None:
            raise PipelineError(
                f"{name}: the adapter {parent.folder} is of {has['peft_type']}, and that is no method here.",
                f"There are {', '.join(name for name in NAMED if METHODS[name].config)}.",
            )
        if own and wanted != method.name:
            raise PipelineError(
                f"{self.recipe.path}: stages.{name}.adapter: the adapter {parent.folder} goes on here, whose method is "
                f"{method.name}, not {wanted}.",
                "Leave it out, or name the method of that adapter.",
            )
        fields = fields_of(method.config_name)
        for key, value in own.items():
            if key in (*method.changeable, *method.learning, "method"):
                continue
            goes_on = has.get(key, fields[key].default)
            if _unordered(fields[key].normalized(value)) != _unordered(fields[key].normalized(goes_on)):
                what = unchangeable(key, goes_on, f"the adapter {parent.folder}", method.name)
                raise PipelineError(
                    f"{self.recipe.path}: stages.{name}.adapter.{key}: {what}",
                    f"A new adapter is made where {name} starts from a base: without a policy.",
                )


def _unordered(value: object) -> object:
    return sorted(map(str, value)) if isinstance(value, list) else value
