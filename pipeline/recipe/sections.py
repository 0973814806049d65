"""The sections of a recipe, each key with its type and default."""

import re
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from pipeline.data.source import Data
from pipeline.data.tokens.template_files import FOLDER
from pipeline.model.adapters import DEFAULT, METHODS, NAMED, NOT_HERE
from pipeline.recipe.fields import fields_of
from pipeline.recipe.gates import MustKeep
from pipeline.recipe.judging import Judge, judge_of
from pipeline.recipe.keep import Keep, keep_of
from pipeline.recipe.labels import LabelNames
from pipeline.recipe.rewards import RewardFunctions, function_in_file
from pipeline.recipe.texts import PACKAGES, TextFigures
from pipeline.section import Section, empty_for_null, regular_expression
from pipeline.wording import must_be, not_among

ATTENTIONS = ("eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3", "flash_attention_4")


def folder_name(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(r"(?!\.+$)[A-Za-z0-9._-]+", value):
        return value
    raise ValueError(must_be("a folder's name of the letters a to z, digits, dots, hyphens and underscores", value))


def _tuning_method(value: object) -> object:
    if isinstance(value, str) and value in METHODS:
        return value
    raise ValueError(NOT_HERE.get(str(value).lower()) or not_among(value, NAMED))


def _switch(value: object) -> object:
    if isinstance(value, bool) or value == "auto":
        return value
    raise ValueError(must_be("true, false or auto", value))


def _attention(value: object) -> object:
    """One of transformers', or a kernel of the hub (owner/name)."""
    if isinstance(value, str) and value not in ATTENTIONS and "/" not in value:
        raise ValueError(f"{not_among(value, ATTENTIONS)} (left out, transformers chooses one)")
    return value


def template_names() -> list[str]:
    """The chat templates that come with align."""
    return sorted(file.stem for file in FOLDER.glob("*.jinja"))


def _template(value: object) -> object:
    names = template_names()
    if isinstance(value, str) and value.endswith((".jinja", ".j2")) and not Path(value).is_file():
        raise ValueError(f"{value}: no such file; paths are relative to the folder you run in")
    if isinstance(value, str) and not value.endswith((".jinja", ".j2")) and value not in names:
        raise ValueError(not_among(value, [*names, "a .jinja file"]))
    return value


Keys = Annotated[dict[str, Any], BeforeValidator(empty_for_null)]


Switch = Annotated[bool | Literal["auto"], BeforeValidator(_switch)]


Positive = Annotated[int, Field(ge=1)]


Count = Annotated[int, Field(ge=0)]


class Tokenizer(Section):
    """How the tokenizer of a from-scratch model is made: trained (byte-level BPE), or taken from a folder."""

    vocab_size: Annotated[int, Field(gt=256)] | None = None
    """Train one on the first stage's texts, with so many tokens."""
    path: str | None = None
    """Take the one in this folder."""


class Model(Section):
    """The base: a model that exists (`id`), or one to start from scratch (`config` and `tokenizer`)."""

    id: str | None = None
    """The base: a model of the hub (`owner/name`) or a local folder."""
    config: dict[str, Any] | None = None
    """Instead of `id`: a model from scratch, as its `config.json` would say it; it needs `model_type`."""
    tokenizer: Tokenizer | None = None
    """How the tokenizer of a model from scratch is made."""
    revision: str = "main"
    """A branch, tag or commit of `id`. The commit is looked up once and recorded."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What the base's weights are kept in. An adapter is float32 whatever this says."""
    load_in_4bit: bool = False
    """Quantize the base to 4 bits (NF4, double quantization): QLoRA."""
    load_in_8bit: bool = False
    """Quantize the base to 8 bits (LLM.int8)."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Read it first."""
    attn_implementation: Annotated[
        str | None, BeforeValidator(_attention), Field(json_schema_extra={"examples": list(ATTENTIONS)})
    ] = None
    """How attention is computed: one of transformers' ways, or a kernel of the hub (`owner/name`). Left out,
    transformers chooses."""
    template: Annotated[
        str | None, BeforeValidator(_template), Field(json_schema_extra={"examples": template_names()})
    ] = None
    """The chat template: one that comes with align, or a `.jinja` file. Left out, the model's own."""
    pad_token: str | None = None
    """The token that fills up short rows. Left out, the model's own, or an unused one where that is missing or is the
    end of an answer."""

    @property
    def bits(self) -> int | None:
        """What the linear layers of a quantized base are kept in, 4 or 8; None of one that is loaded as it is."""
        return 4 if self.load_in_4bit else 8 if self.load_in_8bit else None


class Adapter(Section):
    """The tuning method; every other key is a field of its config of PEFT's, of LoRA's LoraConfig."""

    model_config = ConfigDict(extra="allow")

    method: Annotated[str, BeforeValidator(_tuning_method), Field(json_schema_extra={"enum": list(METHODS)})] = DEFAULT
    """How the model is tuned."""

    @property
    def settings(self) -> dict[str, Any]:
        """Its keys but for the method."""
        return self.model_extra or {}

    @property
    def given(self) -> dict[str, Any]:
        """The keys that were written, without defaults."""
        return self.model_dump(exclude_unset=True)

    def resolved(self) -> dict[str, Any]:
        """The method and, for an adapter, what its config is given."""
        method = METHODS[self.method]
        if method.whole:
            return {"method": method.name} | dict(method.numbers) | self.settings
        fields = fields_of(method.config_name)
        given = {key: fields[key].normalized(value) for key, value in self.settings.items()}
        return {"method": method.name} | deepcopy(dict(method.defaults)) | deepcopy(given)


def not_empty(value: object) -> object:
    """An adapter that is left empty is no mapping of defaults: in Axolotl the same line means full tuning."""
    if value is None:
        raise ValueError("is empty; write adapter: {method: full} to train every weight, or leave it out for LoRA")
    return value


class Evaluation(Section):
    """How a stage is measured before and after. None of it changes what is trained."""

    max_rows: Count = 200
    """The first so many held-out rows are measured; 0 measures nothing."""
    max_new_tokens: Positive = 64
    """The most tokens that an answer to a held-out prompt may have."""
    samples: Count = 3
    """How many answers, before and after, are kept to be read."""
    answer_pattern: Annotated[str | None, BeforeValidator(regular_expression)] = None
    """A regular expression that finds the part of an answer to check; gives `exact_match`."""
    labels: LabelNames = Field(default_factory=list)
    """The labels, two or more, one of which each answer has to be; gives `accuracy`, `macro_f1` and `no_label`."""
    text: TextFigures = Field(default_factory=list, json_schema_extra={"items": {"enum": list(PACKAGES)}})
    """How near answers are to the reference answers, by their words. Needs the extra `text`."""
    few_shot: Count = 0
    """For comparison, show the untrained policy so many training rows and ask it, too; needs `answer_pattern` or
    `labels`."""
    score_function: Annotated[str | None, BeforeValidator(function_in_file)] = None
    """A function of your own that scores each answer (`score.py:score`); gives `mean_score` and `win_rate`."""
    judge: Annotated[Judge | None, BeforeValidator(judge_of)] = None
    """Who says which of two answers is better: a server that speaks OpenAI's API, or `reward`, the reward model."""
    batch_size: Positive = 32
    """How many answers are written at once. It changes memory and speed alone."""
    earlier_stages: bool = True
    """Also measure what the stages before this one taught, on their held-out rows."""

    def overridden_by(self, other: "Evaluation") -> "Evaluation":
        """This, with the keys that the other one gives."""
        return self.model_copy(update={key: getattr(other, key) for key in other.model_fields_set})


class StageSection(Section):
    """What a recipe says of one stage by itself; `Recipe.stage` adds what it says of all."""

    data: Annotated[Data, BeforeValidator(empty_for_null)]
    """What it is trained on."""
    train: Annotated[Keys, Field(default_factory=dict)]
    """The fields of the stage's own trainer config, over those of the top-level `train`."""
    policy: str | None = None
    """What it starts from: another stage, or the folder of an adapter. Left out, the stage before it."""
    reward: str | None = None
    """The reward model: a stage, or the folder of its adapter. Left out, the recipe's reward stage."""
    reward_function: Annotated[str | None, BeforeValidator(function_in_file)] = None
    """One reward function, in a file: `rewards.py:exact_match`."""
    reward_function_weight: float = 1.0
    """What its reward is multiplied by."""
    reward_functions: RewardFunctions = None
    """Several, each under the name that the log has for it: a function in a file, or a built-in one with its
    options."""
    evaluation: Annotated[Evaluation, BeforeValidator(empty_for_null)] = Evaluation()
    """How it is measured, over the top-level `evaluation`."""
    adapter: Adapter | None = None
    """Its own tuning, laid over the top-level `adapter`."""
    use_unsloth: Switch | None = None
    """Its own switch. Left out, that of the recipe."""
    share_prompt: Switch = "auto"
    """Run a pair's prompt once for both answers; `auto` does it where it pays."""
    must_keep: Annotated[MustKeep, Field(default_factory=dict)]
    """Figures that must not get worse than so much: `{exact_match: -0.02, perplexity: 1.05}`."""
    keep: Annotated[Keep | None, BeforeValidator(keep_of)] = None
    """Keep the step with the best figure instead of the last one: `{best: exact_match}`."""
