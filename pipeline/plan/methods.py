"""What a stage needs of its method of tuning, and what a method cannot give: refused before anything is loaded."""

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.data.tokens.template_files import MARKER, named
from pipeline.errors import PipelineError
from pipeline.model.adapters import METHODS, method_of
from pipeline.model.adapters.method import BEGIN, KEEP, REENTRANT, ROLES, SCORE, SEVERAL, WITHOUT_NEW_TOKENS, Method
from pipeline.model.backend import without
from pipeline.model.base import Base
from pipeline.plan.names import refuse_absent
from pipeline.plan.positions import max_length, told_by
from pipeline.plan.step import Parent, Step
from pipeline.recipe import steps
from pipeline.recipe.fields import effective
from pipeline.recipe.recipe import Recipe
from pipeline.stage import Spec, specs


def refuse(recipe: Recipe, name: str, parent: Parent | None, config: Mapping[str, Any]) -> None:
    """Raises PipelineError for a stage that its method cannot serve, or that wants more positions than its model has.

    `parent` is None where that is still to be made; `config` is the base's, empty where it is not known.
    """
    method, fields = tuning(recipe, name, parent)
    if reason := method.obstacle(config):
        raise PipelineError(
            f"{recipe.path}: stages.{name}: adapter.method {method.name}: {reason}.", "Name another adapter.method."
        )
    named_here = parent is None or parent.is_model  # an adapter that goes on names what its author had
    if named_here and not recipe.model.trust_remote_code:
        refuse_absent(f"{recipe.path}: stages.{name}", fields, config)
    begins = parent.is_model if parent else recipe.incoming_adapter(name)[0] is None
    spec, train = specs()[name], recipe.given(name, full=method.whole)
    if method.whole:
        _refuse_whole(recipe, name, method)
    values = effective(spec.config, train)
    if number := steps.written(values):
        refuse_too_short(f"{recipe.path}: stages.{name}", method, fields, number)
    for need in _needs(spec, values, begins, recipe.launch.size, recipe.stage(name).best):
        if reason := method.why_not(need):
            place = f"adapter.method {method.name}" if method.key == "method" else f"adapter.{method.key}"
            where = f"train.{need}" if need in train or need == REENTRANT else need
            raise PipelineError(
                f"{recipe.path}: stages.{name}: {where} does not go with {place}: {reason}.",
                f"Leave {where} out."
                if where != need
                else f"Leave {_WAYS_OUT.get(need, name)} out, or name another adapter.method.",
            )
    most = told_by(config)
    taken = method.positions(fields)
    max_length(name, train, most and most - taken, taken)


def _refuse_whole(recipe: Recipe, name: str, method: Method) -> None:
    """Raises PipelineError where a stage cannot train the weights of the model themselves."""
    if specs()[name].rewarded_by and METHODS[recipe.stage(name).adapter["method"]].whole:
        raise PipelineError(
            f"{name}: adapter.method {method.name}: its roles share one frozen base, so it trains an adapter.",
            f"Give stages.{name}.adapter: {{method: lora}}.",
        )
    if recipe.model.dtype == "float16":
        raise PipelineError(
            f"{recipe.path}: stages.{name} trains the weights themselves, and float16 is too coarse for that: the loss becomes NaN.",
            "Set model.dtype: float32, or bfloat16 where the card has it; or train an adapter.",
        )


def new_tokens(recipe: Recipe, base: Base) -> list[str]:
    """What the recipe's template writes and its pad token, as far as the base's tokenizer is known to lack them."""
    model = recipe.model
    if base.source is None:
        return []
    written = MARKER.findall(named(model.template)) if model.template else []
    return without(base, dict.fromkeys([*written, *([model.pad_token] if model.pad_token else [])]))


def refuse_new_tokens(recipe: Recipe, name: str, base: Base) -> None:
    """Raises PipelineError where a new adapter would have to learn tokens beside itself, and its method cannot."""
    method, _ = tuning(recipe, name, None)
    if method.new_tokens or not (new := new_tokens(recipe, base)):
        return
    key = "pad_token" if new == [recipe.model.pad_token] else "template"
    raise PipelineError(
        f"{recipe.place('model', key)}: {', '.join(new)} {'is' if len(new) == 1 else 'are'} new to the model, and method "
        f"{method.name} of {name} cannot train tokens beside itself.",
        WITHOUT_NEW_TOKENS,
    )


_WAYS_OUT = {KEEP: KEEP, SEVERAL: f"{SEVERAL} (--processes)"}  # instead of the stage itself


def refuse_too_short(where: str, method: Method, fields: Mapping[str, Any], number: int) -> None:
    """Raises PipelineError where a method needs more than so many steps."""
    if said := method.too_short(fields, number):
        raise PipelineError(f"{where}: {said}.", "Change them, or train for longer.")


def not_here(recipe: Recipe, step: Step, *, gpu: bool) -> tuple[str, str] | None:
    """(why this machine cannot run the method of a stage, what to do), or None."""
    if gpu:
        return None
    method, fields = tuning(recipe, step.stage, step.parent)
    return method.without_gpu(fields, recipe.model.bits)


def tuning(recipe: Recipe, name: str, parent: Parent | None):
    """(the method of what a stage trains, its fields): of the adapter that goes on, as far as it is there already."""
    if parent and not parent.is_model and (method := method_of(parent.adapter_config["peft_type"])):
        return method.of(parent.adapter_config), parent.adapter_config
    fields = recipe.stage(name).adapter if parent else recipe.tuning(name)
    return METHODS[fields["method"]].of(fields), fields


def _needs(spec: Spec, train: Mapping[str, Any], begins: bool, size: int, best: str | None) -> Iterator[str]:
    if size > 1:
        yield SEVERAL
    if best:
        yield KEEP
    if spec.head == "score":
        yield SCORE
    if spec.rewarded_by:
        yield ROLES
    if spec.reference and begins:
        yield BEGIN
    if (train.get("gradient_checkpointing_kwargs") or {}).get("use_reentrant"):
        yield REENTRANT
    yield from (key for key, value in train.items() if value is True)
