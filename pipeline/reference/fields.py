"""The pages of the fields that are passed through: those of the trainers under `train`, those of PEFT under `adapter`."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from pipeline.model.adapters import CONFIGS, METHODS
from pipeline.model.adapters.method import Method
from pipeline.recipe.effect import ADAPTER, NEVER, ONLY, Only
from pipeline.recipe.fields import COMMON, DEFAULTS, KIND_WORDS, ON_A_GPU, Field, fields_of
from pipeline.recipe.owned import ADAPTER_OWNED, OWNED, REFUSED_VALUES, adapter_owned
from pipeline.recipe.unknown import listed_configs
from pipeline.reference.markdown import code, codes, page, table
from pipeline.reference.meanings import ENGINE, helps
from pipeline.stage import Spec, specs

MANY = 12  # choices that are not all named
_OURS = {  # configs that are none of TRL's, with the files that have them
    spec.config: ENGINE.parent.joinpath(*spec.home.split(".")).with_suffix(".py")
    for spec in specs().values()
    if spec.home.startswith("pipeline.")
}
_TRL = {  # the page of each config in TRL's documentation
    "SFTConfig": "sft_trainer#trl.SFTConfig",
    "RewardConfig": "reward_trainer#trl.RewardConfig",
    "DPOConfig": "dpo_trainer#trl.DPOConfig",
    "KTOConfig": "kto_trainer#trl.KTOConfig",
    "GRPOConfig": "grpo_trainer#trl.GRPOConfig",
    "RLOOConfig": "rloo_trainer#trl.RLOOConfig",
    "ORPOConfig": "orpo_trainer",
    "CPOConfig": "cpo_trainer",
}
_PEFT = {"ln_tuning": "layernorm_tuning", "prefix": "prefix_tuning", "prompt": "prompt_tuning"}
_NOT_PEFT = ("bitfit", "bottleneck", "full", "freeze")


@cache
def _pinned(package: str) -> str:
    """The version that pyproject.toml pins."""
    text = (ENGINE.parent / "pyproject.toml").read_text(encoding="utf-8")
    return re.findall(rf'"{package}==([\d.]+)"', text)[0]


def _docs(package: str, place: str) -> str:
    return f"https://huggingface.co/docs/{package}/v{_pinned(package)}/en/{place}"


def train_page() -> str:
    common = _docs("transformers", "main_classes/trainer#transformers.TrainingArguments")
    return page(
        "Fields of train",
        "What stands under `train` and `stages.<stage>.train` are the fields of the trainers' own configs, by their own "
        "names. What each means is told by TRL and transformers, to which every section links. Here is which of them a "
        "stage takes, with type and default. *Only with* names the setting without which a field would do nothing, and is "
        "refused.",
        "## In every stage",
        f"Fields of transformers' [TrainingArguments]({common}). Where a stage has another default, its own section says "
        "so. **Bold** defaults are align's own.",
        _fields(COMMON, [field for field in fields_of(COMMON).values() if field.name not in OWNED]),
        *(_of_stages(config, names) for config, names in listed_configs(specs()).items()),
        "## What is not set here",
        "Fields that the same configs have and a recipe may not set.",
        _refused(OWNED),
        _refused_values(),
    )


def _of_stages(config: str, names: Sequence[str]) -> str:
    common, hidden = fields_of(COMMON), OWNED.keys() | NEVER.get(config, {}).keys()
    own = [
        field
        for field in fields_of(config).values()
        if field.name not in hidden and not _same(field, common.get(field.name))
    ]
    parts = [f"## {', '.join(names)}"]
    if config in _OURS:
        parts += ["align's own trainer, with the names that TRL's had."]
    else:
        parts += [f"TRL's [{config}]({_docs('trl', _TRL[config])})."]
    alone = specs()[next(iter(names))] if len(names) == 1 else None
    parts += [_fields(config, own, alone), *(_defaults_of(names) if alone is None else [])]
    if never := {key: why for key, why in NEVER.get(config, {}).items() if key in fields_of(config)}:
        parts += ["Refused here, as they would do nothing or harm:", _refused(never)]
    return "\n\n".join(parts)


def _same(field: Field, common: Field | None) -> bool:
    said = [(one.kinds, one.default, one.choices, one.items) for one in (field, common) if one]
    return len(said) == 2 and said[0] == said[1]


def _defaults_of(names: Iterable[str]) -> list[str]:
    """What makes a trainer a stage's, and what an adapter wants otherwise."""
    told = []
    for name in names:
        spec = specs()[name]
        for values, when in ((spec.defaults, ""), (spec.adapter_defaults, " under an adapter")):
            said = [f"`{key}: {code(value)[1:-1]}`" for key, value in values.items() if key not in OWNED]
            told += [f"Default in {name}{when}: {', '.join(said)}."] if said else []
    return told


def _fields(config: str, fields: Iterable[Field], spec: Spec | None = None) -> str:
    """`spec` is that of the one stage that they are of, whose defaults they then have."""
    said = helps(_OURS[config], config) if config in _OURS else {}
    rows = [
        [f"`{one.name}`", _type(one), _default(one, spec), said.get(one.name, ""), _only_with(config, one)]
        for one in fields
    ]
    return table(["field", "type", "default", "meaning", "only with"], rows)


def _type(field: Field) -> str:
    refused = tuple(REFUSED_VALUES.get(field.name, {}))
    choices = [choice for choice in field.choices if not choice.startswith(refused)]
    if len(choices) > MANY:
        return f"one of {codes(choices[:4])} and {len(choices) - 4} more"
    several = "a list from " if "list" in field.kinds and "str" not in field.kinds else "one of "
    if choices:
        return several + codes(choices)
    return " or ".join(KIND_WORDS[kind] for kind in field.kinds if kind != "null")


def _default(field: Field, spec: Spec | None) -> str:
    if spec and field.name in spec.adapter_defaults:
        return f"**{code(spec.adapter_defaults[field.name])}** ({code(field.default)} in full tuning)"
    if spec and field.name in spec.defaults:
        return f"**{code(spec.defaults[field.name])}**"
    if field.name in ON_A_GPU:
        return "**`true` on a GPU, else `false`**"
    if field.name in DEFAULTS and field.config not in CONFIGS:
        return f"**{code(DEFAULTS[field.name])}**"
    return code(field.default)


def _only_with(config: str, field: Field) -> str:
    rules = (*ONLY.get(config, ()), *(ONLY[ADAPTER] if config in CONFIGS else ONLY[COMMON]))
    found = [f"`{one.key}`: {_wanted(config, one)}" for one in rules if field.name in one.fields.split()]
    return "; ".join(dict.fromkeys(found))


def _wanted(config: str, rule: Only) -> str:
    said, holds = rule.values
    if said != "any other":
        return said
    return f"not {codes(choice for choice in fields_of(config)[rule.key].choices if not holds(choice))}"


def _refused(reasons: Mapping[str, str]) -> str:
    by_reason: dict[str, list[str]] = {}
    for name, why in reasons.items():
        words = why.removeprefix("is not set here; ").removeprefix("is not set in a recipe: ")
        by_reason.setdefault(words, []).append(name)
    return table(["fields", "why, or what to set"], [[codes(names), why] for why, names in by_reason.items()])


def _refused_values() -> str:
    rows = [[f"`{key}`", code(value), why] for key, values in REFUSED_VALUES.items() for value, why in values.items()]
    return "And values that are refused, with all that begin so:\n\n" + table(["field", "value", "why"], rows)


def adapter_page() -> str:
    return page(
        "Fields of adapter",
        "`adapter.method` names how a model is tuned; every other key under `adapter` is a field of that method's own PEFT "
        "config, by its own name. What each means is told by PEFT, to which the sections link. **Bold** defaults are "
        "align's own. [Choose a method](../how-to/tuning-methods.md) compares them.",
        *(_of_method(method) for method in METHODS.values()),
        "## What is not set in any",
        _refused(ADAPTER_OWNED),
    )


def _of_method(method: Method) -> str:
    parts = [f"## {method.name}", f"{_capital(method.when)}."]
    if method.config:
        if method.name not in _NOT_PEFT:
            own = method.config.removesuffix("Config").lower() if method.by_class else method.name
            place = _PEFT.get(method.name, own)
            parts += [f"PEFT's [{method.config}]({_docs('peft', f'package_reference/{place}#peft.{method.config}')})."]
        hidden = adapter_owned(method.config)
        rows = [
            [f"`{one.name}`", _type(one), _adapter_default(method, one), _only_with(method.config, one)]
            for one in fields_of(method.config).values()
            if one.name not in hidden
        ]
        parts += [table(["field", "type", "default", "only with"], rows)]
    for key, value in method.numbers.items():
        parts += [table(["field", "type", "default"], [[f"`{key}`", "a whole number, 1 or more", code(value)]])]
    if method.refused:
        parts += ["Not set here:", _refused(method.refused)]
    return "\n\n".join(parts)


def _adapter_default(method: Method, field: Field) -> str:
    own = method.defaults.get(field.name)
    return f"**{code(own)}**" if own is not None else code(field.default)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
