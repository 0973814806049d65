"""The sections of a recipe, each key with its type and default."""

import re
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from pipeline.data.source import Data
from pipeline.data.tokens.template_files import FOLDER
from pipeline.model.adapters import DEFAULT, METHODS, NOT_HERE
from pipeline.recipe.fields import fields_of
from pipeline.recipe.gates import MustKeep
from pipeline.recipe.judging import Judge, judge_of
from pipeline.recipe.keep import Keep, keep_of
from pipeline.recipe.labels import LabelNames
from pipeline.recipe.rewards import RewardFunctions, function_in_file
from pipeline.recipe.texts import TextFigures
from pipeline.section import Section, empty_for_null, regular_expression
from pipeline.wording import must_be, not_among

ATTENTIONS = ("eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3", "flash_attention_4")


def folder_name(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(r"(?!\.+$)[A-Za-z0-9._-]+", value):
        return value
    raise ValueError(must_be("a folder's name of letters, digits, dots, hyphens and underscores", value))


def _tuning_method(value: object) -> object:
    if isinstance(value, str) and value in METHODS:
        return value
    raise ValueError(NOT_HERE.get(str(value).lower()) or not_among(value, METHODS))


def _switch(value: object) -> object:
    if isinstance(value, bool) or value == "auto":
        return value
    raise ValueError(must_be("true, false or auto", value))


def _attention(value: object) -> object:
    """One of transformers', or a kernel of the hub (owner/name)."""
    if isinstance(value, str) and value not in ATTENTIONS and "/" not in value:
        raise ValueError(f"{not_among(value, ATTENTIONS)} (left out, transformers chooses one)")
    return value


def _template(value: object) -> object:
    names = sorted(file.stem for file in FOLDER.glob("*.jinja"))
    if isinstance(value, str) and value.endswith((".jinja", ".j2")) and not Path(value).is_file():
        raise ValueError(f"{value}: no such file; paths are relative to the folder you run in")
    if isinstance(value, str) and not value.endswith((".jinja", ".j2")) and value not in names:
        raise ValueError(not_among(value, [*names, "a .jinja file"]))
    return value


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
    load_in_8bit: bool = False
    trust_remote_code: bool = False
    attn_implementation: Annotated[str | None, BeforeValidator(_attention)] = None
    template: Annotated[str | None, BeforeValidator(_template)] = None
    pad_token: str | None = None

    @property
    def bits(self) -> int | None:
        """What the linear layers of a quantized base are kept in, 4 or 8; None of one that is loaded as it is."""
        return 4 if self.load_in_4bit else 8 if self.load_in_8bit else None


class Adapter(Section):
    """The tuning method; every other key is a field of its config of PEFT's, of LoRA's LoraConfig."""

    model_config = ConfigDict(extra="allow")

    method: Annotated[str, BeforeValidator(_tuning_method)] = DEFAULT

    @property
    def given(self) -> dict[str, Any]:
        """The keys that were written, without defaults."""
        return self.model_dump(exclude_unset=True)

    def resolved(self) -> dict[str, Any]:
        """The method and, for an adapter, what its config is given."""
        method = METHODS[self.method]
        if method.whole:
            return {"method": method.name} | dict(method.numbers) | self.model_extra
        fields = fields_of(method.config)
        given = {key: fields[key].normalized(value) for key, value in self.model_extra.items()}
        return {"method": method.name} | deepcopy(dict(method.defaults)) | deepcopy(given)


def not_empty(value: object) -> object:
    """An adapter that is left empty is no mapping of defaults: in Axolotl the same line means full tuning."""
    if value is None:
        raise ValueError("is empty; write adapter: {method: full} to train every weight, or leave it out for LoRA")
    return value


class Evaluation(Section):
    """How a stage is measured before and after. None of it changes what is trained."""

    max_rows: Count = 200
    max_new_tokens: Positive = 64
    samples: Count = 3
    answer_pattern: Annotated[str | None, BeforeValidator(regular_expression)] = None
    labels: Annotated[LabelNames, Field(default_factory=list)]  # one of which each answer has to be
    text: Annotated[TextFigures, Field(default_factory=list)]  # how near answers are to the references, by their words
    few_shot: Count = 0
    score_function: Annotated[str | None, BeforeValidator(function_in_file)] = None
    judge: Annotated[Judge | None, BeforeValidator(judge_of)] = None  # which of two answers is better
    batch_size: Positive = 32
    earlier_stages: bool = True  # also on the held-out rows of the stages that the policy stands on

    def overridden_by(self, other: "Evaluation") -> "Evaluation":
        """This, with the keys that the other one gives."""
        return self.model_copy(update={key: getattr(other, key) for key in other.model_fields_set})


class StageSection(Section):
    """What a recipe says of one stage by itself; `Recipe.stage` adds what it says of all."""

    data: Annotated[Data, BeforeValidator(empty_for_null)]
    train: Annotated[Keys, Field(default_factory=dict)]
    policy: str | None = None
    reward: str | None = None
    reward_function: Annotated[str | None, BeforeValidator(function_in_file)] = None
    reward_function_weight: float = 1.0
    reward_functions: RewardFunctions = None
    evaluation: Annotated[Evaluation, BeforeValidator(empty_for_null)] = Evaluation()
    adapter: Adapter | None = None
    use_unsloth: Switch | None = None
    share_prompt: Switch = "auto"  # run a pair's prompt once for both answers
    must_keep: Annotated[MustKeep, Field(default_factory=dict)]
    keep: Annotated[Keep | None, BeforeValidator(keep_of)] = None
