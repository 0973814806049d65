"""What is wrong in what a recipe and its stages say of an adapter."""

from collections.abc import Iterator, Mapping

from pipeline import stage
from pipeline.model.adapters import DEFAULT, METHODS, NAMED
from pipeline.model.adapters.method import Method
from pipeline.recipe import foreign
from pipeline.recipe.chain import start_of
from pipeline.recipe.fields import fields_of, is_listed
from pipeline.recipe.going_on import changeable, incoming_adapter_of, is_full, merged_adapter, unchangeable
from pipeline.recipe.owned import adapter_owned
from pipeline.recipe.passed_through import passed_through
from pipeline.recipe.problem import Problem
from pipeline.recipe.raw import bits_of, mapping
from pipeline.recipe.unknown import unknown_key
from pipeline.wording import must_be


def adapter_problems(raw: dict, where: tuple) -> Iterator[Problem]:
    adapter = mapping(raw, *where)
    method = METHODS.get(merged_adapter(mapping(raw, "adapter"), adapter)["method"])
    if method is None:
        return  # the section says so
    keys = {key: value for key, value in adapter.items() if key != "method"}
    # Said of all stages, or where a stage itself names its method.
    method = method.of(merged_adapter(mapping(raw, "adapter"), adapter))
    bits = bits_of(raw) if where == ("adapter",) or method.key in adapter else None
    if not method.whole:
        config = method.config_name
        for key, what in passed_through(keys, where, config, adapter_owned(config)):
            there = _methods_with(key[-1]) if key[-1] not in fields_of(config) else ""
            yield (
                key,
                f"belongs to {there}, and this is {method.name}; adapter={{method: {method.name}}} leaves the others' keys out"
                if there
                else what,
            )
        if bits and not method.fits(bits):
            those = ", ".join(one.name for one in METHODS.values() if one.fits(bits))
            which = adapter.get(method.key, method.name)
            yield (*where, method.key), f"PEFT does not put {which} onto a base in {bits} bits; {those} go there"
        return
    for key, value in keys.items():
        if foreign.nearest_key(key, "adapter").removeprefix("adapter.") in method.numbers.keys() - {key}:
            yield (*where, key), unknown_key(key, where, method.numbers, value)
        elif key not in method.numbers:
            yield (*where, key), f"belongs to {_methods_with(key) or 'an adapter'}; {_tuning(method)} has no adapter"
        elif not isinstance(value, int) or isinstance(value, bool) or value < 1:
            yield (*where, key), must_be("a whole number of at least 1", value)
    if bits:
        yield (
            (*where, "method"),
            f"{_tuning(method)} cannot train a base in {bits} bits; set model.load_in_{bits}bit: false",
        )


def _tuning(method: Method) -> str:
    return f"method {method.name}" if method.numbers else f"{method.name} tuning"


def _methods_with(key: str) -> str:
    """The methods that have a field, for a message; empty where none has."""
    named = [METHODS[name] for name in NAMED]
    having = [one.name for one in named if one.config and key in fields_of(one.config)]
    return f"method {having[0] if DEFAULT in having else ' or '.join(having)}" if having else ""


def own_adapter_problems(raw: dict, name: str, policies: Mapping[str, str | None]) -> Iterator[Problem]:
    """What a stage says of its adapter and what could not take effect."""
    stages, from_scratch = mapping(raw, "stages"), mapping(raw, "model").get("config") is not None
    every = {one: mapping(stages, one, "adapter") for one in policies}
    own, where = every[name], ("stages", name, "adapter")
    if from_scratch and start_of(name, policies) is None and policies[name] is None:
        what = "a model from scratch has no base to adapt, and every weight of it is trained; leave it out"
        yield from (((*where, key), what) for key in own if not is_full(own.get("method")))
        return
    maker, incoming = incoming_adapter_of(name, policies, mapping(raw, "adapter"), every, from_scratch)
    inherited = incoming if maker else mapping(raw, "adapter")
    for key in changeable(merged_adapter(inherited, own)["method"]):
        if own.get(key) != inherited.get(key):
            yield from _dropout_problems(raw, name, own, key)
    if maker is None:
        return
    if is_full(own.get("method")) and not stage.specs()[name].rewarded_by:
        yield (*where, "method"), f"full tuning on top of the adapter of {maker} would merge that into the base first"
        return
    method = METHODS.get(incoming["method"])
    if method is None:
        return
    if own.get("method", method.name) != method.name and not is_full(own["method"]):
        yield (*where, "method"), unchangeable("method", method.name, f"the adapter of {maker}", method.name)
        return
    fields = fields_of(method.config_name)
    for key in own.keys() & fields.keys() - {*changeable(method.name), *method.learning}:
        goes_on = incoming.get(key, method.defaults.get(key, fields[key].default))
        if fields[key].normalized(own[key]) != fields[key].normalized(goes_on):
            yield (*where, key), unchangeable(key, goes_on, f"the adapter of {maker}", method.name)


def _dropout_problems(raw: dict, name: str, own: dict, key: str) -> Iterator[Problem]:
    """Where the dropout that a stage sets would be switched off again."""
    dropout, spec = own.get(key), stage.specs()[name]
    if not dropout or isinstance(dropout, bool) or not isinstance(dropout, int | float):
        return
    where = ("stages", name, "adapter", key)
    train = mapping(raw, "train") | mapping(raw, "stages", name, "train")
    switch = fields_of(spec.config).get("disable_dropout") if is_listed(spec.config) else None
    if switch is None and spec.rewarded_by:
        yield where, f"cannot take effect: {name} trains without dropout, for the old log-probabilities to be exact"
    elif switch and (dict(spec.defaults) | train).get("disable_dropout", switch.default) is True:
        fix = f"set stages.{name}.train.disable_dropout: false"
        yield where, f"cannot take effect: dropout is switched off in {name}; {fix}"
