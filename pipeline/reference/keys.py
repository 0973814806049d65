"""The page of a recipe's own keys: type, default, meaning, and the stages that each is for."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic_core import PydanticUndefined

from pipeline.data.shapes.kinds import KINDS
from pipeline.data.source import Data, EveryData, HeldOut, Part
from pipeline.recipe.few_shot import has_answers
from pipeline.recipe.judging import Judge
from pipeline.recipe.keep import Keep
from pipeline.recipe.launch import Launch
from pipeline.recipe.recipe import Recipe
from pipeline.recipe.rewards import RewardFunction
from pipeline.recipe.sections import Adapter, Evaluation, Model, StageSection, Tokenizer
from pipeline.reference.markdown import NOTHING, code, codes, page, table, type_words
from pipeline.reference.meanings import of_class
from pipeline.reward.verifiable import BUILT_IN
from pipeline.section import Section
from pipeline.stage import Spec, specs

HEADINGS: dict[type[Section], str] = {  # in the order of the page
    Recipe: "The recipe",
    Model: "The base",
    Tokenizer: "A tokenizer from scratch",
    Adapter: "Tuning",
    Launch: "Processes and machines",
    EveryData: "Data of every stage",
    Evaluation: "Evaluation",
    Judge: "A judge",
    StageSection: "A stage",
    Data: "Data of a stage",
    Part: "A part of a mixture",
    HeldOut: "Held-out rows of their own",
    RewardFunction: "A reward function",
    Keep: "The step to keep",
}
WHERE = {
    Model: "Under `model`.",
    Tokenizer: "Under `model.tokenizer`: one of the two.",
    Adapter: "Under `adapter`, for every stage; and under `stages.<stage>.adapter`, laid over it. All other keys are those of "
    "the method: [fields of `adapter`](adapter.md).",
    Launch: "Under `launch`. None of it changes what is trained. [Several GPUs](../how-to/several-gpus.md).",
    EveryData: "Under the top-level `data`; a stage's own `data` goes before it.",
    Evaluation: "Under `evaluation`, for every stage; and under `stages.<stage>.evaluation`, laid over it. None of it changes "
    "what is trained. [What is measured](figures.md).",
    Judge: "Under `evaluation.judge`, as a mapping.",
    StageSection: "Under `stages.<stage>`.",
    Data: "Under `stages.<stage>.data`: a `path` or a `mixture`.",
    Part: "Each of the list `stages.<stage>.data.mixture`.",
    HeldOut: "Under `stages.<stage>.data.held_out`, as a mapping.",
    RewardFunction: "Each of the mapping `stages.<stage>.reward_functions`; a function alone may stand without its braces. The "
    "options of a built-in one stand beside these keys.",
    Keep: "Under `stages.<stage>.keep`.",
}


def _asked(spec: Spec) -> bool:
    return spec.head == "causal" and KINDS[spec.row_kind].ASKS


# Keys that are not for every stage, and what tells those that they are for.
ONLY_FOR: dict[tuple[type[Section], str], Callable[[Spec], bool]] = {
    **dict.fromkeys(
        [(StageSection, key) for key in ("reward", "reward_function", "reward_function_weight", "reward_functions")],
        lambda spec: bool(spec.rewarded_by),
    ),
    (StageSection, "share_prompt"): lambda spec: spec.shares_prompt,
    (Data, "learn"): lambda spec: spec.row_kind == "conversation",
    **dict.fromkeys(
        [
            (Evaluation, key)
            for key in ("max_new_tokens", "samples", "answer_pattern", "labels", "score_function", "judge")
        ],
        _asked,
    ),
    **dict.fromkeys([(Evaluation, key) for key in ("text", "few_shot")], has_answers),
    (Evaluation, "earlier_stages"): lambda spec: spec.head == "causal" and bool(spec.after),
}


def stages_of(section: type[Section], key: str) -> list[str]:
    """The stages that a key is for."""
    fits = ONLY_FOR.get((section, key), lambda spec: True)
    return [name for name, spec in specs().items() if fits(spec)]


def recipe_page() -> str:
    return page(
        "Keys of a recipe",
        "One YAML file describes a whole chain. These are the keys that are align's own; `train` takes the "
        "[fields of the trainers](train.md), `adapter` those of the [tuning method](adapter.md). A key that is not "
        "here, or would do nothing, is refused with the reason. `align recipe show` prints a recipe with every value.",
        f"An empty default ({NOTHING}) means: left out. *Stages* are those that a key does something in; all where it "
        "says nothing.",
        *(_section(section) for section in HEADINGS),
        _built_in(),
    )


def _section(section: type[Section]) -> str:
    return "\n\n".join([f"## {HEADINGS[section]}", WHERE.get(section, ""), _table(section)]).replace("\n\n\n\n", "\n\n")


def _table(section: type[Section]) -> str:
    return table(["key", "type", "default", "meaning", "stages"], [_row(section, key) for key in section.model_fields])


def _row(section: type[Section], key: str) -> list[str]:
    schema: Mapping[str, Any] = section.model_json_schema()["properties"][key]
    names = {one.__name__: heading for one, heading in HEADINGS.items()}
    words = type_words(schema, names), _default(section, key), meaning(section, key)
    return [f"`{key}`", *words, some_stages(stages_of(section, key))]


def some_stages(stages: Sequence[str]) -> str:
    """Named, or if that is shorter the others; nothing of all."""
    others = [name for name in specs() if name not in stages]
    if not others:
        return ""
    return f"all but {codes(others)}" if len(others) < len(stages) else codes(stages)


def meaning(section: type[Section], key: str) -> str:
    """Of a key of a stage's data that says nothing itself, what it means under the top-level `data`."""
    return of_class(section)[key] or of_class(EveryData).get(key, "")


def _default(section: type[Section], key: str) -> str:
    field = section.model_fields[key]
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return NOTHING if (section, key) == (Recipe, "name") else "*required*"
    return NOTHING if isinstance(value, Section) else code(value)


def _built_in() -> str:
    parts = ["## Built-in reward functions", "What `function` can name, each with its options."]
    for name, kind in BUILT_IN.items():
        said = " ".join((kind.__doc__ or "").partition("\n\n")[0].split())
        parts += [f"### {name}", said, _table(kind) if kind.model_fields else ""]
    return "\n\n".join(part for part in parts if part)
