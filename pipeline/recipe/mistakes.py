"""What is wrong between the keys of a recipe, and in those that are passed through."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline import stage
from pipeline.data.shapes.examples import shapes_of
from pipeline.data.shapes.shape import SHAPES
from pipeline.model.adapters import METHODS
from pipeline.recipe.adapter_mistakes import adapter_problems, own_adapter_problems
from pipeline.recipe.chain import stages_below
from pipeline.recipe.clashes import clashes
from pipeline.recipe.effect import idle
from pipeline.recipe.few_shot import few_shot_problems
from pipeline.recipe.fields import DEFAULTS, effective, fields_of, is_listed
from pipeline.recipe.going_on import merged_adapter
from pipeline.recipe.keep import keep_problems
from pipeline.recipe.owned import OWNED
from pipeline.recipe.passed_through import passed_through
from pipeline.recipe.problem import Problem
from pipeline.recipe.raw import all_bits, bits_of, mapping
from pipeline.recipe.rewards import reward_problems
from pipeline.recipe.unknown import listed_configs
from pipeline.wording import did_you_mean, listed


def contradictions(raw: dict) -> Iterator[Problem]:
    """What is wrong between keys, and in those that are passed through. Takes a recipe of any shape."""
    stages, specs = mapping(raw, "stages"), stage.specs()
    yield from _model_problems(raw)
    if isinstance(raw.get("stages", 0), dict | None) and not stages:
        yield ("stages",), f"needs at least one stage: {', '.join(specs)}"
    yield from _common_train_problems(raw, stages)
    yield from adapter_problems(raw, ("adapter",))
    for name in stages:
        where = ("stages", name)
        if name in specs and stages[name] is None:
            yield where, "is empty; give it data: {path: ...}, or leave it out"
        elif name in specs:
            yield from _train_problems(mapping(stages, name, "train"), (*where, "train"), specs[name].config)
            yield from adapter_problems(raw, (*where, "adapter"))
            yield from _vllm_problems(raw, name)
            yield from _data_problems(mapping(stages, name, "data"), (*where, "data"), specs[name].row_kind)
            yield from _least_problems(raw, name)
            yield from _streaming_problems(raw, name)
            yield from _keep_problems(raw, name)
            yield from _prompt_problems(raw, name)
        else:
            yield where, f"unknown stage{did_you_mean(str(name), specs)} (there are {', '.join(specs)})"
    known = {name: specs[name] for name in stages if name in specs}
    yield from _without_effect(raw, known)
    asked = {name: mapping(stages, name, "evaluation") for name in known}
    yield from few_shot_problems(known, mapping(raw, "evaluation"), asked)
    given = {name: mapping(stages, name).get("policy") for name in known}
    policies = {name: policy if isinstance(policy, str) else None for name, policy in given.items()}
    yield from _policy_problems(policies)
    for name in policies:
        yield from reward_problems(name, mapping(stages, name), policies)
    for name in policies:
        yield from own_adapter_problems(raw, name, policies)


def _model_problems(raw: dict) -> Iterator[Problem]:
    if not isinstance(raw.get("model"), dict | None) or "model" not in raw:
        return
    model = mapping(raw, "model")
    base, config, tokenizer = (model.get(key) for key in ("id", "config", "tokenizer"))
    if base is None and config is None:
        yield ("model",), "needs id (a hub id or a local folder), or config for a model from scratch"
    if base is not None and config is not None:
        yield ("model", "config"), "stands beside model.id; give one of them"
    if isinstance(config, dict) and not isinstance(config.get("model_type"), str):
        yield ("model", "config", "model_type"), "is missing or not text; give one such as llama"
    if config is not None and tokenizer is None:
        yield ("model", "tokenizer"), "is missing; a model from scratch needs one such as {vocab_size: 4096}"
    if config is None and tokenizer is not None and base is not None:
        yield ("model", "tokenizer"), "is for a model from scratch; that of model.id is used"
    made = [mapping(tokenizer).get(key) is not None for key in ("vocab_size", "path")]
    if isinstance(tokenizer, dict) and sum(made) != 1:
        yield ("model", "tokenizer"), "needs either vocab_size (to train one) or path (a folder that has one)"
    attention = model.get("attn_implementation")
    if str(attention).startswith("flash_attention_") and model.get("dtype", "float32") == "float32":
        what = f"{attention} takes no float32; set model.dtype: bfloat16, or leave it out"
        yield ("model", "attn_implementation"), what
    bits = all_bits(raw)
    if config is not None:
        for one in bits:
            what = f"is for a model that exists; one from scratch cannot train in {one} bit"
            yield ("model", f"load_in_{one}bit"), what
    if len(bits) > 1:
        yield ("model", "load_in_8bit"), "stands beside load_in_4bit; a base is loaded in one of the two, leave one out"


def _common_train_problems(raw: dict, stages: dict) -> Iterator[Problem]:
    """The top-level `train` is every stage's: a key of it must be a field of each."""
    configs = listed_configs(stages)
    train = mapping(raw, "train")
    for key, value in train.items():
        having = [config for config in configs if key in fields_of(config)]
        if having and len(having) < len(configs) and key not in OWNED:
            lacking = [name for config in configs if config not in having for name in configs[config]]
            places = listed(f"stages.{name}.train" for config in having for name in configs[config])
            has = "has" if len(lacking) == 1 else "have"
            yield ("train", key), f"{listed(lacking)} {has} no such field; put it under {places}"
        elif configs:
            yield from _train_problems({key: value}, ("train",), (having or list(configs))[0])


def _train_problems(train: dict, where: tuple, config: str) -> Iterator[Problem]:
    if is_listed(config):
        yield from passed_through(train, where, config, OWNED)


def _least_problems(raw: dict, name: str) -> Iterator[Problem]:
    for key, least in stage.specs()[name].least.items():
        for where in (("stages", name, "train"), ("train",)):
            value = mapping(raw, *where).get(key)
            if isinstance(value, int) and value < least:
                yield (*where, key), f"must be at least {least} in {name}, not {value}"
            if value is not None:
                break


def _prompt_problems(raw: dict, name: str) -> Iterator[Problem]:
    key, able = "share_prompt", [other for other, spec in stage.specs().items() if spec.shares_prompt]
    if key in mapping(raw, "stages", name) and name not in able:
        yield ("stages", name, key), f"{name} runs no prompt for two answers at once; it belongs to {listed(able)}"


def _vllm_problems(raw: dict, name: str) -> Iterator[Problem]:
    train = mapping(raw, "train") | mapping(raw, "stages", name, "train")
    if train.get("use_vllm") is True and (bits := bits_of(raw)):
        what = f"vLLM is given base and adapter merged, and nothing is merged into a base in {bits} bits; leave one of the two out"
        yield ("stages", name, "train", "use_vllm"), what


def _data_problems(data: dict, where: tuple, kind: str) -> Iterator[Problem]:
    if not data.get("path") and not data.get("mixture"):
        yield (*where, "path"), "is missing"
    if data.get("learn", "answers") != "answers" and kind != "conversation":
        yield (
            (*where, "learn"),
            f"cannot take effect: it chooses among the answers of conversations, and these are {kind} rows",
        )
    parts = data["mixture"] if isinstance(data.get("mixture"), list) else []
    every = [(where, data), *(((*where, "mixture", n), part) for n, part in enumerate(parts) if isinstance(part, dict))]
    for place, source in every:
        shape = source.get("shape")
        if isinstance(shape, str) and shape in SHAPES and shape not in shapes_of(kind):
            what = f"{shape} is no shape of {kind} rows; those are {', '.join(shapes_of(kind))}"
            yield (*place, "shape"), what


def _without_effect(raw: dict, specs: Mapping[str, stage.Spec]) -> Iterator[Problem]:
    """What a stage says and would do nothing. What is said of all stages takes effect if it does in one."""
    of_all: dict[tuple, list[str | None]] = {}
    for name, spec in specs.items():
        for section in ("train", "adapter"):
            common, own = mapping(raw, section), mapping(raw, "stages", name, section)
            given, config = common | own, spec.config if section == "train" else None
            standing: Mapping[str, Any] = DEFAULTS | dict(spec.defaults)
            if section == "adapter":
                given = merged_adapter(common, own)
                if method := METHODS.get(given["method"]):
                    standing, config = method.defaults, method.config
            if config is None or not is_listed(config):
                continue
            fields, standing = fields_of(config), effective(config, standing)
            good = {key: value for key, value in given.items() if key in fields and not fields[key].complaint(value)}
            values = standing | {key: fields[key].normalized(value) for key, value in good.items()}
            here = ("stages", name, section)
            for key in good:
                said = idle(config, key, values, given) if values[key] != standing[key] else None
                if key not in own:
                    of_all.setdefault((section, key), []).append(said)
                elif said:
                    yield (*here, key), said
            for key, said in clashes(config, values):
                yield (*(here if key in own or key not in common else (section,)), key), said
    for where, found in of_all.items():
        if all(found) and (what := found[0]):
            yield where, what


def _streaming_problems(raw: dict, name: str) -> Iterator[Problem]:
    own = mapping(raw, "stages", name)
    if mapping(own, "data").get("streaming") is not True:
        return
    if (mapping(raw, "data") | mapping(own, "data")).get("max_rows") is not None:
        what = (
            "max_rows chooses among all rows, and data that are streamed are not read to the end; leave one of them out"
        )
        yield ("stages", name, "data", "streaming"), what
    train = mapping(raw, "train") | mapping(own, "train")
    steps = train.get("max_steps", -1)
    if isinstance(steps, int) and steps < 1:
        what = f"needs train.max_steps: it says how many rows are read; give stages.{name}.train.max_steps"
        yield ("stages", name, "data", "streaming"), what


def _keep_problems(raw: dict, name: str) -> Iterator[Problem]:
    own = mapping(raw, "stages", name)
    if keep := mapping(own, "keep"):
        sections = (mapping(raw, key) | mapping(own, key) for key in ("train", "evaluation", "data"))
        yield from keep_problems(name, keep.get("best"), *sections)


def _policy_problems(policies: Mapping[str, str | None]) -> Iterator[Problem]:
    for name, policy in policies.items():
        if policy is None:
            continue
        where = ("stages", name, "policy")
        spec = stage.specs().get(policy)
        if policy == name:
            yield where, "a stage cannot start from itself"
        elif spec and spec.head != "causal":
            yield where, f"{policy} trains a reward model, and a reward model is never a policy"
        elif policy not in policies and not Path(policy).expanduser().is_dir():
            others = [other for other in policies if other != name]
            hint = did_you_mean(policy, others)
            yield where, f"{policy} is neither a stage of this recipe nor a folder{hint}"
        elif name in (chain := stages_below(name, policies)):
            yield where, f"goes round in a circle: {name} starts from {', which starts from '.join(chain)}"
