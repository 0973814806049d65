"""The prepared rows of a stage: asked for by the stage itself, and by an earlier one that looks ahead."""

from collections.abc import Callable
from pathlib import Path

from pipeline.data.prepare import account
from pipeline.data.prepare.cache import prepared_once
from pipeline.data.prepare.one_pass import Enough, Prepared
from pipeline.data.tokens.encoder import Encoder
from pipeline.errors import PipelineError
from pipeline.recipe.fields import effective
from pipeline.recipe.recipe import Recipe
from pipeline.stage import specs


def prepare(
    recipe: Recipe,
    stage: str,
    folder: Path,
    *,
    given: dict,
    contents: dict,
    tokenizer,
    most: int | None,
    runs: Path,
    threads: int,
    report: Callable[..., None],
) -> Prepared:
    """The rows of a stage, made now or found in `runs`.

    `folder` is the recipe's own in `runs`, `given` the stage's training arguments, `contents` stands for what is in its
    files, `most` is the number of the model's positions. Raises PipelineError where they cannot be trained on.
    """
    data, spec = recipe.stage(stage).data.pinned(folder), specs()[stage]
    length = max_length(stage, given, most)

    def check(found: account.Account) -> None:
        if data.on_bad_row == "error":
            account.refuse_bad_rows(found, stage)
        account.refuse_empty(found, stage, data)

    encoder = Encoder(tokenizer, length, data.on_too_long, through_suffix=spec.head == "score", learn=data.learn)
    return prepared_once(
        data,
        spec.rows,
        encoder,
        runs,
        contents=contents,
        enough=enough(recipe, stage, length),
        check=check,
        threads=threads,
        progress=lambda rows: report("rows", read=rows),
    )


def max_length(stage: str, given: dict, most: int | None) -> int | None:
    """The tokens of a row: train.max_length, or the config's default as far as the model has positions.

    Of a row that is only a prompt it is what the response leaves. Raises PipelineError where the model has too few.
    """
    spec = specs()[stage]
    values = effective(spec.config, given)
    length = values.get("max_length")
    if length is not None and most is not None and length > most:
        if "max_length" in given:
            raise PipelineError(
                f"{stage}: train.max_length is {length}, but the model has {most} positions.",
                f"Set it to {most} or less.",
            )
        length = most
    if spec.rows != "prompt":
        return length
    if length <= values["response_length"]:
        raise PipelineError(
            f"{stage}: responses of {values['response_length']} tokens leave no room for a prompt in {length}.",
            "Lower train.response_length, or raise train.max_length.",
        )
    return length - values["response_length"]


def enough(recipe: Recipe, stage: str, length: int | None) -> Enough | None:
    """What the stage's max_steps can use up of data that are not read to the end; None where all are read."""
    if (rows := recipe.rows_needed(stage)) is None:
        return None
    packing = recipe.stage(stage).train.get("packing", False)
    return Enough(tokens=rows * (length or 1)) if packing else Enough(pieces=rows)
