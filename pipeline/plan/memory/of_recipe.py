"""From a recipe to what the memory of a stage depends on. What is not known here is said, with what to do about it."""

import json
from collections.abc import Mapping
from pathlib import Path

from pipeline.data.shapes.kinds import KINDS
from pipeline.hub import Repository
from pipeline.model import backend
from pipeline.model.adapters.method import IN_4_BITS, Method
from pipeline.model.backend import UNSLOTH
from pipeline.model.base import Base, repository_of
from pipeline.plan import methods
from pipeline.plan.memory.setting import Setting
from pipeline.plan.memory.shape import Shape, UnknownShape, shape_of
from pipeline.plan.memory.tuned import tuned
from pipeline.plan.memory.weights import BYTES
from pipeline.plan.positions import told_by
from pipeline.plan.step import Step
from pipeline.recipe.fields import ON_A_GPU, effective
from pipeline.recipe.launch import SHARDING, takes_bits
from pipeline.recipe.recipe import Recipe
from pipeline.stage import Spec, specs

PROMPT = 512  # tokens of a prompt, where nothing says how long they are


def model_of(recipe: Recipe, base: Base) -> Shape:
    """The sizes of the recipe's base. Raises UnknownShape with what to do."""
    config = backend.model_config(base, recipe.model.config)
    if not config:
        hub: Repository = repository_of(recipe)
        at = f" --revision {hub.revision}" if hub.revision != "main" else ""
        raise UnknownShape(
            f"the config.json of {hub.name} is not at hand; `hf download {hub.name} config.json{at}` brings it, a few kB"
        )
    return shape_of(config, _vocabulary(recipe))


def setting_of(recipe: Recipe, step: Step, base: Base, lengths: Mapping[str, int]) -> Setting:
    """What the memory of a stage depends on, on a GPU. `lengths` has the tokens of its longest rows, as far as they are known.

    Raises UnknownShape where something is not known.
    """
    name, spec, model = step.stage, specs()[step.stage], recipe.model
    shape = model_of(recipe, base)
    config = backend.model_config(base, model.config)
    method, fields = methods.tuning(recipe, name, step.parent)
    given = step.given or recipe.given(name, full=method.whole)
    train = effective(spec.config, dict.fromkeys(ON_A_GPU, True) | given)
    length, prompt = _length(spec, train, lengths, config)
    evaluation = recipe.stage(name).evaluation
    asks = KINDS[spec.row_kind].ASKS and evaluation.max_rows
    size = BYTES[model.dtype]
    new = _new_tokens(recipe, base, method, fields)
    trained = tuned(method.name, fields, shape, size, score=spec.head == "score", tokens=new)
    reference = _reference(spec, train, lengths.get("rows"))
    return Setting(
        spec=spec,
        shape=shape.without_head() if spec.head == "score" else shape,
        tuned=trained,
        train=train,
        dtype=model.dtype,
        bits=model.bits,
        length=length,
        prompt=prompt,
        attention=model.attn_implementation or "sdpa",
        unsloth=bool(step.backend and step.backend.name == UNSLOTH),
        second_model=reference and (method.whole or not method.beside),
        reference=reference,
        scored=bool(spec.rewarded_by and recipe.reward(name)),
        answers=evaluation.max_new_tokens if asks else 0,
        batch_of_answers=min(evaluation.batch_size, evaluation.max_rows),
        evaluated=evaluation.max_rows,
        longest_row=lengths.get("row", 0),
        quantizable=_quantizable(recipe, method),
        quantizable_in_parts=IN_4_BITS in method.divided,
        whole_loss="lm_head" in trained.adapted,
    )


def _new_tokens(recipe: Recipe, base: Base, method: Method, fields: Mapping) -> int:
    """How many tokens are trained beside the adapter: those of one that goes on, or what is new to the base."""
    if known := fields.get("trainable_token_indices"):
        return max(map(len, known.values())) if isinstance(known, Mapping) else len(known)
    return len(methods.new_tokens(recipe, base)) if method.new_tokens and not method.whole else 0


def _quantizable(recipe: Recipe, method: Method) -> bool:
    model, launch = recipe.model, recipe.launch
    if method.whole or not method.in_4_bit or model.config is not None or model.bits:
        return False
    if launch.size == 1 or launch.strategy not in SHARDING:
        return True
    return takes_bits(launch.strategy, 4) and IN_4_BITS in method.divided


def _reference(spec: Spec, train: Mapping, rows: int | None) -> bool:
    """Whether a frozen reference stands there while the stage trains."""
    if not spec.reference:
        return False
    if not spec.reference_columns:
        return spec.config == "RLOOConfig" or bool(train.get("beta"))
    # What it says of the rows is kept where all of them are trained on; see pipeline.train.loop.context.
    trained = train["max_steps"] * train["per_device_train_batch_size"] * train["gradient_accumulation_steps"]
    some = train["max_steps"] > 0 and (rows is None or trained < rows)
    return some or not train.get("precompute_ref_log_probs")


def _length(spec: Spec, train: Mapping, lengths: Mapping[str, int], config: Mapping) -> tuple[int, int]:
    """(tokens of the longest row, of the longest prompt), a response that is sampled included in the first."""
    most = told_by(config)
    limit = train.get("max_length")
    limit = min(one for one in (limit, most) if one) if limit or most else None
    if spec.response:
        response = int(train[spec.response])
        prompt = lengths.get("prompt") or max(1, min(PROMPT, (limit or PROMPT + response) - response))
        return prompt + response, prompt
    if limit is None:
        raise UnknownShape("train.max_length is null, and config.json has no max_position_embeddings")
    length = limit if train.get("packing") else min(lengths.get("row", limit), limit)
    return length, min(lengths.get("prompt", PROMPT), length)


def _vocabulary(recipe: Recipe) -> int | None:
    """Of a model from scratch, whose config leaves it to the tokenizer."""
    tokenizer = recipe.model.tokenizer
    if tokenizer is None or tokenizer.path is None:
        return tokenizer.vocab_size if tokenizer else None
    try:
        said = json.loads((Path(tokenizer.path) / "tokenizer.json").read_text(encoding="utf-8"))
        return len(said["model"]["vocab"]) + len(
            [one for one in said["added_tokens"] if one["content"] not in said["model"]["vocab"]]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
