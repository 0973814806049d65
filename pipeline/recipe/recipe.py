"""A recipe, one YAML file for a whole chain: a frozen `Recipe`, or all of its mistakes at once."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError

from pipeline import stage
from pipeline.data.shapes.shape import SHAPES, shapes_of
from pipeline.data.source import ROWS_TAG, Data, EveryData, HeldOut, Part
from pipeline.errors import PipelineError
from pipeline.recipe import foreign, yaml_lines
from pipeline.recipe.fields import ADAPTER_OWNED, DEFAULTS, LORA, ON_A_GPU, OWNED, effective, fields_of, is_listed
from pipeline.section import Section, empty_for_null
from pipeline.wording import did_you_mean, must_be, nearest, not_among

Problem = tuple[tuple, str]  # a key path and what is wrong there

LORA_DEFAULTS = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
CHANGEABLE = ("lora_dropout",)  # what a stage may set on an adapter that goes on; all else is in its tensors


class RecipeError(PipelineError):
    """A recipe that cannot be used; `problems` holds one line for each mistake."""

    def __init__(self, problems: Sequence[str], fix: str = "Mend the recipe and run the same command again."):
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems), fix)


def _regular_expression(value: object) -> object:
    try:
        re.compile(value or "")
    except (re.error, TypeError) as error:
        raise ValueError(f"is not a regular expression: {error}") from None
    return value


def _function_in_file(value: object) -> object:
    if value is None or (isinstance(value, str) and re.fullmatch(r".+\.py:[A-Za-z_]\w*", value)):
        return value
    raise ValueError(must_be("a function in a file, such as score.py:score", value))


def _folder_name(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(r"(?!\.+$)[A-Za-z0-9._-]+", value):
        return value
    raise ValueError(must_be("a folder's name of letters, digits, dots, hyphens and underscores", value))


def _tuning_method(value: object) -> object:
    if value == "qlora":
        raise ValueError("qlora is method lora on a 4-bit base: set model.load_in_4bit: true")
    return value


def _switch(value: object) -> object:
    if isinstance(value, bool) or value == "auto":
        return value
    raise ValueError(must_be("true, false or auto", value))


Keys = Annotated[dict[str, Any], BeforeValidator(empty_for_null)]
Switch = Annotated[bool | str, BeforeValidator(_switch)]
Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]


class Tokenizer(Section):
    """How the tokenizer of a from-scratch model is made: trained (byte-level BPE), or taken from a folder."""

    vocab_size: Annotated[int, Field(gt=256)] | None = None
    path: str | None = None


class Model(Section):
    """The base: a model that exists (`id`), or one to start from scratch (`config` and `tokenizer`)."""

    id: str | None = None
    config: dict[str, Any] | None = None
    tokenizer: Tokenizer | None = None
    revision: str = "main"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    load_in_4bit: bool = False
    trust_remote_code: bool = False
    attn_implementation: str | None = None
    template: str | None = None
    pad_token: str | None = None


class Adapter(Section):
    """The tuning method; every other key is a field of PEFT's LoraConfig."""

    model_config = ConfigDict(extra="allow")

    method: Annotated[Literal["lora", "full"], BeforeValidator(_tuning_method)] = "lora"

    @property
    def given(self) -> dict[str, Any]:
        """The keys that were written, without defaults."""
        return self.model_dump(exclude_unset=True)

    def resolved(self) -> dict[str, Any]:
        """The method and, for an adapter, what LoraConfig is given."""
        if self.method == "full":
            return {"method": "full"}
        fields = fields_of(LORA)
        given = {key: fields[key].normalized(value) for key, value in self.model_extra.items()}
        return {"method": "lora"} | LORA_DEFAULTS | deepcopy(given)


class Evaluation(Section):
    """How a stage is measured before and after. None of it changes what is trained."""

    max_rows: Count = 200
    max_new_tokens: Positive = 64
    samples: Count = 3
    answer_pattern: Annotated[str | None, BeforeValidator(_regular_expression)] = None
    few_shot: Count = 0
    score_function: Annotated[str | None, BeforeValidator(_function_in_file)] = None
    batch_size: Positive = 32

    def overridden_by(self, other: "Evaluation") -> "Evaluation":
        """This, with the keys that the other one gives."""
        return self.model_copy(update={key: getattr(other, key) for key in other.model_fields_set})


class StageSection(Section):
    """What a recipe says of one stage by itself; `Recipe.stage` adds what it says of all."""

    data: Annotated[Data, BeforeValidator(empty_for_null)]
    train: Annotated[Keys, Field(default_factory=dict)]
    policy: str | None = None
    reward: str | None = None
    reward_function: Annotated[str | None, BeforeValidator(_function_in_file)] = None
    reward_function_weight: float = 1.0
    evaluation: Annotated[Evaluation, BeforeValidator(empty_for_null)] = Evaluation()
    adapter: Adapter | None = None
    use_unsloth: Switch | None = None


@dataclass(frozen=True)
class StageRecipe:
    """One stage with all the recipe says of it. `adapter` holds `method` and LoraConfig's fields."""

    name: str
    data: Data
    train: dict[str, Any]
    evaluation: Evaluation
    policy: str | None
    adapter: dict[str, Any]
    reward_function: str | None
    reward_function_weight: float


class Recipe(Section):
    """One whole chain. Its stages stand in the pipeline's order, whatever theirs was in the file."""

    name: Annotated[str, BeforeValidator(_folder_name)]
    model: Annotated[Model, BeforeValidator(empty_for_null)]
    adapter: Annotated[Adapter, BeforeValidator(empty_for_null)] = Adapter()
    use_unsloth: Switch = "auto"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    threads: Positive | None = None
    data: Annotated[EveryData, BeforeValidator(empty_for_null)] = EveryData()
    train: Annotated[Keys, Field(default_factory=dict)]
    evaluation: Annotated[Evaluation, BeforeValidator(empty_for_null)] = Evaluation()
    stages: Annotated[
        dict[str, Annotated[StageSection, BeforeValidator(empty_for_null)]], BeforeValidator(empty_for_null)
    ]

    _path: Path = PrivateAttr(default=Path())

    @property
    def path(self) -> Path:
        """The file it was read from."""
        return self._path

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
            adapter=Adapter(**_merged_adapter(self.adapter.given, self.own_adapter(name))).resolved(),
            reward_function=own.reward_function,
            reward_function_weight=own.reward_function_weight,
        )

    def own_adapter(self, name: str) -> dict[str, Any]:
        """What a stage itself says of its adapter."""
        own = self.stages[name].adapter
        return own.given if own else {}

    def incoming_adapter(self, name: str) -> tuple[str | None, dict[str, Any]]:
        """The stage whose adapter goes on in `name`, and that adapter, as far as the recipe alone tells."""
        own = {one: self.own_adapter(one) for one in self.stages}
        return _incoming_adapter(name, self._policies(), self.adapter.given, own, self.model.config is not None)

    def resolved(self) -> dict[str, Any]:
        """Every key that may be set, with its value, as plain JSON values: a recipe itself, and the same one.

        What it says of all stages stands in each. `ON_A_GPU` are left to the machine where it says nothing.
        """
        said_of_all = {"adapter", "data", "train", "evaluation", "stages", "use_unsloth"}
        whole = self.model_dump(mode="json", exclude=said_of_all)
        return whole | {"stages": {name: self._resolved_stage(name) for name in self.stages}}

    def _resolved_stage(self, name: str) -> dict[str, Any]:
        merged, spec = self.stage(name), stage.specs()[name]
        adapter = self._resolved_adapter(name)
        train = self.given(name, full=adapter["method"] == "full")
        if is_listed(spec.config):
            hidden = OWNED.keys() | (set(ON_A_GPU) - train.keys())
            train = _without(hidden, effective(spec.config, train))
        if adapter["method"] == "lora":
            adapter = _without(ADAPTER_OWNED, effective(LORA, adapter))
        reward = {
            "reward": self.reward(name),
            "reward_function": merged.reward_function,
            "reward_function_weight": merged.reward_function_weight,
        }
        return {
            "data": merged.data.model_dump(mode="json"),
            "policy": merged.policy or self.parent(name),
            **(reward if spec.rewarded_by else {}),
            "adapter": {"method": adapter["method"]} | adapter,
            "use_unsloth": self.wants_unsloth(name)[0],
            "train": train,
            "evaluation": merged.evaluation.model_dump(mode="json"),
        }

    def _resolved_adapter(self, name: str) -> dict[str, Any]:
        """What is trained in a stage: below an adapter, that one."""
        if self.model.config is not None and self.parent(name) is None:
            return {"method": "full"}
        own = self.stage(name).adapter
        maker, incoming = self.incoming_adapter(name)
        if maker is None or (own["method"] == "full" and not stage.specs()[name].rewarded_by):
            return own
        return Adapter(**incoming | _changes(self.own_adapter(name))).resolved()

    def given(self, name: str, *, full: bool) -> dict[str, Any]:
        """A stage's training arguments as far as they differ from TRL's defaults; `full` tuning has no adapter's."""
        adapter = {} if full else stage.specs()[name].adapter_defaults
        return DEFAULTS | adapter | self.stage(name).train

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
        return self.model.load_in_4bit or any(word in one for one in optimizers for word in ("8bit", "paged", "bnb"))

    def parent(self, name: str) -> str | None:
        """The recipe's stage whose policy `name` starts from; None where that is the base, or a folder."""
        return _start(name, self._policies())

    def reward(self, name: str) -> str | None:
        """The reward model of a stage: another stage of the recipe, or a folder; None where it has none.

        A reward function stands alone unless the recipe names a model beside it.
        """
        spec, own = stage.specs()[name], self.stages[name]
        if not spec.rewarded_by or own.reward is not None:
            return own.reward
        default = next((one for one in reversed(spec.rewarded_by) if one in self.stages), None)
        return None if own.reward_function else default

    def _policies(self) -> dict[str, str | None]:
        return {name: own.policy for name, own in self.stages.items()}


def _without(keys: Iterable[str], values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in keys}


def _start(name: str, policies: Mapping[str, str | None]) -> str | None:
    """The recipe's stage that another starts from; `policies` has each one's own choice, or None."""
    if policies[name] is not None:
        return policies[name] if policies[name] in policies else None
    return next((after for after in reversed(stage.specs()[name].after) if after in policies), None)


def _merged_adapter(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's adapter with a stage's own keys on top; what belongs to another method than the stage's is left out.

    A stage that names LoRA fields and no method means LoRA.
    """
    method = own.get("method") or ("lora" if own else common.get("method", "lora"))
    shared = common if common.get("method", "lora") == method else {}
    return {**shared, **own, "method": method}


def _changes(own: Mapping[str, Any]) -> dict[str, Any]:
    """What a stage sets on an adapter that goes on."""
    return {key: own[key] for key in CHANGEABLE if key in own}


def _incoming_adapter(
    name: str,
    policies: Mapping[str, str | None],
    common: Mapping[str, Any],
    own: Mapping[str, Mapping[str, Any]],
    from_scratch: bool,
) -> tuple[str | None, dict[str, Any]]:
    """(the stage that makes the adapter which goes on in `name`, that adapter); (None, {}) where there is none, or
    where it comes from a folder. `common` and `own` are the recipe's adapter and that of each stage, as written.
    """
    maker, adapter = None, {}
    for above in reversed(_chain(name, policies)):
        if maker:
            adapter |= _changes(own[above])
            continue
        first = _start(above, policies) is None
        if first and policies[above] is not None:
            return None, {}
        merged = _merged_adapter(common, own[above])
        if merged["method"] != "full" and not (first and from_scratch):
            maker, adapter = above, merged
    return maker, adapter


def load(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, with `a.b.c=value` overrides on top. Raises RecipeError with every mistake in it."""
    path = Path(path)
    source = yaml_lines.load(_text(path), str(path))
    for override in overrides:
        yaml_lines.set_override(source, override)
    problems = list(source.problems)
    if not problems and source.value is None:
        problems = [((), "the recipe is empty; it needs at least model and stages")]
    elif not problems and not isinstance(source.value, dict):
        problems = [((), must_be("a mapping of keys such as model and stages", source.value))]
    recipe = None
    if isinstance(source.value, dict):
        recipe, wrong_shape = _parsed({"name": path.stem} | source.value)
        problems += wrong_shape
        problems += _contradictions(source.value)
    if problems:
        raise RecipeError(_in_order(problems, source))
    recipe._path = path
    return recipe


def data(**keys: Any) -> Data:
    """A stage's data from outside of a recipe. Raises RecipeError with every mistake in it."""
    try:
        return Data(**keys)
    except ValidationError as error:
        worded = (_worded(each) for each in error.errors(include_url=False))
        raise RecipeError([f"{'.'.join(map(str, path))}: {what}" for path, what in worded], "") from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        beside = sorted(file.name for file in path.parent.glob("*.y*ml"))
        close = nearest(path.name, beside)
        hint = f"; did you mean {path.parent / close}?" if close else ""
        there = f"There are: {', '.join(beside)}." if beside else f"There is no recipe in {path.parent}/."
        raise RecipeError([f"{path}: no such recipe{hint}"], there) from None
    except UnicodeDecodeError as error:
        what = f"{path}: not UTF-8 text (byte {error.start})"
        raise RecipeError([what], "Save the file as UTF-8.") from None
    except OSError as error:
        raise RecipeError([f"{path}: {error.strerror}"], "Give a recipe file that can be read.") from None


def _in_order(problems: Iterable[Problem], source: yaml_lines.Source) -> list[str]:
    """One line a problem: the file's from top to bottom, then those of the overrides."""

    def position(problem: Problem) -> tuple[bool, int]:
        line = source.line(problem[0])
        return line == 0, line

    lines = []
    for path, what in sorted(problems, key=position):
        place, dotted = source.place(path), ".".join(map(str, path))
        lines.append(f"{place}: {what}" if dotted in ("", place) else f"{place}: {dotted}: {what}")
    return list(dict.fromkeys(lines))


def _parsed(raw: Mapping[str, object]) -> tuple[Recipe | None, list[Problem]]:
    stages = raw.get("stages")
    if isinstance(stages, dict):
        raw = {**raw, "stages": {name: stages[name] for name in stage.specs() if name in stages}}
    try:
        return Recipe.model_validate(raw), []
    except ValidationError as error:
        return None, [_worded(each) for each in error.errors(include_url=False)]


_WANTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


def _worded(error: Mapping[str, Any]) -> Problem:
    """One of pydantic's errors in a recipe author's words."""
    path = tuple(part for part in error["loc"] if part != ROWS_TAG)
    kind, value = error["type"], error["input"]
    if kind == "extra_forbidden":
        in_any_stage = ("stages", "<stage>", *path[2:-1]) if path[0] == "stages" else path[:-1]
        in_any_stage = [part for part in in_any_stage if not isinstance(part, int)]
        return path, _unknown_key(str(path[-1]), path[:-1], _sections().get(".".join(in_any_stage), ()))
    if kind == "missing":
        return path, "is missing"
    if kind == "invalid_key":
        return tuple(part for part in path if part != "[key]"), "a key must be text; put it in quotes"
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        return path, not_among(value, choices)
    if kind == "value_error":
        return path, str(error["ctx"]["error"])
    if kind in _WANTED:
        return path, must_be(_WANTED[kind], value) + _as_mapping(path, value)
    return path, error["msg"].replace("Input should", "must")


def _as_mapping(path: tuple, word: object) -> str:
    """Other tools name the model, and the kind of adapter, in a word."""
    if not isinstance(word, str):
        return ""
    if path[-1:] == ("adapter",):
        base = " and model: {load_in_4bit: true}" if word == "qlora" else ""
        method = word if word == "full" else "lora"
        return f"; write adapter: {{method: {method}}}{base}"
    return f"; write model: {{id: {word}}}" if path == ("model",) else ""


@cache
def _sections() -> dict[str, Iterable[str]]:
    """The keys of every section, in the order in which a stray key's home is looked for."""
    return {
        "": Recipe.model_fields,
        "model": Model.model_fields,
        "data": EveryData.model_fields,
        "stages.<stage>.data": Data.model_fields,
        "stages.<stage>.data.held_out": HeldOut.model_fields,
        "stages.<stage>.data.mixture": Part.model_fields,
        "adapter": ("method", *fields_of(LORA)),
        "evaluation": Evaluation.model_fields,
        "stages.<stage>": StageSection.model_fields,
        "stages.<stage>.evaluation": Evaluation.model_fields,
        "model.tokenizer": Tokenizer.model_fields,
    }


def _unknown_key(key: str, section: Sequence[object], valid: Iterable[str]) -> str:
    """What to say of a key that its section does not have: the nearest one, where the key belongs, or why there is none."""
    valid, inner = list(valid), str(section[-1]) if section else ""
    owned = OWNED | ADAPTER_OWNED
    if key in owned:
        return owned[key]
    name = foreign.nearest_key(key, "data" if "data" in section else inner)
    here = name.rpartition(".")[2] if name.startswith(f"{inner}.") else name
    if section == ("data",) and here in Data.model_fields and here not in valid:
        return f"is of one stage's rows; put it under stages.<stage>.data{'' if here == key else f' as {here}'}"
    known = here if here in valid else _home(name, section)
    if not known and (said := foreign.answer(key)):
        return said
    close = known or nearest(key, valid)
    if not close:
        return "unknown key"
    note = foreign.VALUES.get(key)
    return f"unknown key; did you mean {close}?" + (f" ({note})" if note else "")


def _home(name: str, section: Sequence[object]) -> str | None:
    """The full place of a key that is known elsewhere in a recipe."""
    inside = section[:1] == ("stages",)
    in_stage = f"stages.{section[1] if inside else '<stage>'}"
    prefix, _, last = name.rpartition(".")
    for home, keys in _sections().items():
        if last in keys and prefix in ("", home.rpartition(".")[2]) and not (inside and home == "data"):
            return f"{home}.{last}".lstrip(".").replace("stages.<stage>", in_stage)
    configs = _listed_configs(stage.specs())
    having = [config for config in configs if name in fields_of(config)]
    if having and section[-1:] == ("train",):
        return " or ".join(f"stages.{other}.train.{name}" for config in having for other in configs[config])
    if having == list(configs) and not section:
        return f"train.{name}"
    return f"{in_stage}.train.{name}" if having else None


def _listed_configs(stages: Iterable[str]) -> dict[str, list[str]]:
    """The TRL configs of some stages, each with its stages, as far as they are listed."""
    found: dict[str, list[str]] = {}
    for name in stages:
        spec = stage.specs().get(name)
        if spec and is_listed(spec.config):
            found.setdefault(spec.config, []).append(name)
    return found


def _mapping(value: object, *keys: str) -> dict:
    """A mapping inside a recipe that may yet be of any shape."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _contradictions(raw: dict) -> Iterator[Problem]:
    """What is wrong between keys, and in those that are passed through. Takes a recipe of any shape."""
    stages, specs = _mapping(raw, "stages"), stage.specs()
    yield from _model_problems(raw)
    if isinstance(raw.get("stages", 0), dict | None) and not stages:
        yield ("stages",), f"needs at least one stage: {', '.join(specs)}"
    yield from _common_train_problems(raw, stages)
    yield from _adapter_problems(raw, ("adapter",))
    for name in stages:
        where = ("stages", name)
        if name in specs:
            yield from _train_problems(_mapping(stages, name, "train"), (*where, "train"), specs[name].config)
            yield from _adapter_problems(raw, (*where, "adapter"))
            yield from _data_problems(_mapping(stages, name, "data"), (*where, "data"), specs[name].rows)
            yield from _streaming_problems(raw, name)
        else:
            yield where, f"unknown stage{did_you_mean(str(name), specs)} (there are {', '.join(specs)})"
    given = {name: _mapping(stages, name).get("policy") for name in stages if name in specs}
    policies = {name: policy if isinstance(policy, str) else None for name, policy in given.items()}
    yield from _policy_problems(policies)
    for name in policies:
        yield from _reward_problems(name, _mapping(stages, name), policies)
    for name in policies:
        yield from _own_adapter_problems(raw, name, policies)


def _model_problems(raw: dict) -> Iterator[Problem]:
    if not isinstance(raw.get("model"), dict | None) or "model" not in raw:
        return
    model = _mapping(raw, "model")
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
    made = [_mapping(tokenizer).get(key) is not None for key in ("vocab_size", "path")]
    if isinstance(tokenizer, dict) and sum(made) != 1:
        yield ("model", "tokenizer"), "needs either vocab_size (to train one) or path (a folder that has one)"
    if config is not None and model.get("load_in_4bit") is True:
        yield ("model", "load_in_4bit"), "is for a model that exists; one from scratch cannot train in 4 bit"


def _common_train_problems(raw: dict, stages: dict) -> Iterator[Problem]:
    """The top-level `train` is every stage's: a key of it must be a field of each."""
    configs = _listed_configs(stages)
    train = _mapping(raw, "train")
    for key, value in train.items():
        having = [config for config in configs if key in fields_of(config)]
        if having and len(having) < len(configs) and key not in OWNED:
            lacking = [name for config in configs if config not in having for name in configs[config]]
            places = " or ".join(f"stages.{name}.train" for config in having for name in configs[config])
            yield ("train", key), f"{', '.join(lacking)} has no such field; put it under {places}"
        elif configs:
            yield from _train_problems({key: value}, ("train",), (having or list(configs))[0])


def _train_problems(train: dict, where: tuple, config: str) -> Iterator[Problem]:
    if is_listed(config):
        yield from _passed_through(train, where, config, OWNED)


def _passed_through(given: dict, where: tuple, config: str, owned: Mapping[str, str]) -> Iterator[Problem]:
    fields = fields_of(config)
    settable = fields.keys() - owned.keys() | ({"method"} if config == LORA else set())
    for key, value in given.items():
        if key in owned:
            yield (*where, key), owned[key]
        elif key not in fields:
            yield (*where, key), _unknown_key(str(key), where, sorted(settable))
        elif complaint := fields[key].complaint(value):
            yield (*where, key), complaint


def _data_problems(data: dict, where: tuple, kind: str) -> Iterator[Problem]:
    if not data.get("path") and not data.get("mixture"):
        yield (*where, "path"), "is missing"
    parts = data["mixture"] if isinstance(data.get("mixture"), list) else []
    every = [(where, data), *(((*where, "mixture", n), part) for n, part in enumerate(parts) if isinstance(part, dict))]
    for place, source in every:
        shape = source.get("shape")
        if isinstance(shape, str) and shape in SHAPES and shape not in shapes_of(kind):
            what = f"{shape} is no shape of {kind} rows; those are {', '.join(shapes_of(kind))}"
            yield (*place, "shape"), what


def _streaming_problems(raw: dict, name: str) -> Iterator[Problem]:
    own = _mapping(raw, "stages", name)
    if _mapping(own, "data").get("streaming") is not True:
        return
    if (_mapping(raw, "data") | _mapping(own, "data")).get("max_rows") is not None:
        what = (
            "max_rows chooses among all rows, and data that are streamed are not read to the end; leave one of them out"
        )
        yield ("stages", name, "data", "streaming"), what
    train = _mapping(raw, "train") | _mapping(own, "train")
    steps = train.get("max_steps", -1)
    if isinstance(steps, int) and steps < 1:
        what = f"needs train.max_steps: it says how many rows are read; give stages.{name}.train.max_steps"
        yield ("stages", name, "data", "streaming"), what


def _adapter_problems(raw: dict, where: tuple) -> Iterator[Problem]:
    adapter = _mapping(raw, *where)
    keys = {key: value for key, value in adapter.items() if key != "method"}
    if adapter.get("method") != "full":
        yield from _passed_through(keys, where, LORA, ADAPTER_OWNED)
        return
    for key in keys:
        yield (*where, key), "belongs to method lora; full tuning has no adapter"
    if _mapping(raw, "model").get("load_in_4bit") is True:
        yield (*where, "method"), "full tuning cannot train a 4-bit base; set model.load_in_4bit: false"


def _own_adapter_problems(raw: dict, name: str, policies: Mapping[str, str | None]) -> Iterator[Problem]:
    """What a stage says of its adapter and what could not take effect."""
    stages, from_scratch = _mapping(raw, "stages"), _mapping(raw, "model").get("config") is not None
    every = {one: _mapping(stages, one, "adapter") for one in policies}
    own, where = every[name], ("stages", name, "adapter")
    if from_scratch and _start(name, policies) is None and policies[name] is None:
        what = "a model from scratch has no base to adapt, and every weight of it is trained; leave it out"
        yield from (((*where, key), what) for key in own if own.get("method") != "full")
        return
    yield from _dropout_problems(raw, name, own)
    maker, incoming = _incoming_adapter(name, policies, _mapping(raw, "adapter"), every, from_scratch)
    if maker is None:
        return
    if own.get("method") == "full" and not stage.specs()[name].rewarded_by:
        yield (*where, "method"), f"full tuning on top of the adapter of {maker} would merge that into the base first"
        return
    for key in own.keys() & fields_of(LORA).keys() - {*CHANGEABLE}:
        field = fields_of(LORA)[key]
        goes_on = incoming.get(key, LORA_DEFAULTS.get(key, field.default))
        if field.normalized(own[key]) != field.normalized(goes_on):
            yield (*where, key), unchangeable(key, goes_on, f"the adapter of {maker}")


def unchangeable(key: str, value: object, adapter: str) -> str:
    """The complaint about a key of a stage that an adapter from before it cannot follow."""
    return (
        f"cannot take effect: {adapter} goes on here, whose {key} is {json.dumps(value)}; only "
        f"{', '.join(CHANGEABLE)} can be changed on the way. Leave it out"
    )


def _dropout_problems(raw: dict, name: str, own: dict) -> Iterator[Problem]:
    """Where the dropout that a stage sets would be switched off again."""
    dropout, spec = own.get("lora_dropout"), stage.specs()[name]
    if not dropout or isinstance(dropout, bool) or not isinstance(dropout, int | float):
        return
    where = ("stages", name, "adapter", "lora_dropout")
    train = _mapping(raw, "train") | _mapping(raw, "stages", name, "train")
    switch = fields_of(spec.config).get("disable_dropout") if is_listed(spec.config) else None
    if spec.rewarded_by:
        yield where, f"cannot take effect: {name} trains without dropout, for the old log-probabilities to be exact"
    elif switch and train.get("disable_dropout", switch.default) is True:
        fix = f"set stages.{name}.train.disable_dropout: false"
        yield where, f"cannot take effect: TRL switches dropout off in {name}; {fix}"


def _reward_problems(name: str, own: dict, stages: Iterable[str]) -> Iterator[Problem]:
    where, spec, reward = ("stages", name), stage.specs()[name], own.get("reward")
    if not spec.rewarded_by:
        for key in ("reward", "reward_function", "reward_function_weight"):
            if own.get(key) is not None:
                others = [other for other, one in stage.specs().items() if one.rewarded_by]
                yield (*where, key), f"{name} takes no reward; it belongs to {', '.join(others)}"
    elif isinstance(reward, str):
        named = stage.specs().get(reward)
        if named and named.head != "score":
            yield (*where, "reward"), f"{reward} trains a policy, not a reward model"
        elif reward not in stages and not Path(reward).expanduser().is_dir():
            yield (*where, "reward"), f"{reward} is neither a stage of this recipe nor a folder"
    elif reward is None and own.get("reward_function") is None and not set(spec.rewarded_by) & set(stages):
        yield where, f"needs a reward: a stage {' or '.join(spec.rewarded_by)}, reward: a folder, or reward_function"
    adapter = _mapping(own, "adapter").get("method")
    if spec.rewarded_by and adapter == "full":
        yield (*where, "adapter", "method"), f"{name} trains an adapter: its roles share one frozen base"


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
        elif name in (chain := _chain(name, policies)):
            yield where, f"goes round in a circle: {name} starts from {', which starts from '.join(chain)}"


def _chain(name: str, policies: Mapping[str, str | None]) -> list[str]:
    """The stages under a stage, each the start of the one before it; ends where one comes up again."""
    chain: list[str] = []
    start = _start(name, policies)
    while start and start not in chain:
        chain.append(start)
        start = _start(start, policies)
    return chain
