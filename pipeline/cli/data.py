"""Look at data before anything is trained on them."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.options import JsonOption, RunsOption
from pipeline.console import data_report
from pipeline.console.for_programs import show_json
from pipeline.console.screen import Screen, make_console
from pipeline.data.source import Data
from pipeline.errors import PipelineError
from pipeline.recipe import shipped
from pipeline.recipe.reading import data_section, load_recipe
from pipeline.recipe.recipe import Recipe
from pipeline.recipe.sections import Model
from pipeline.stage import specs


def check_data(
    files: Annotated[
        list[str] | None,
        typer.Argument(help="Files, folders, globs, or hub:owner/name; else what the recipe gives --stage."),
    ] = None,
    stage: Annotated[
        str | None, typer.Option(help="The stage that would train on them; else it is told by the rows.")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", "-r", help="The recipe whose tokenizer and lengths hold, and its data.")
    ] = None,
    runs: RunsOption = Path("runs"),
    tokenizer: Annotated[
        str | None, typer.Option(help="A model's id or folder; else the recipe's, and without one words are counted.")
    ] = None,
    columns: Annotated[list[str] | None, typer.Option("--column", help="expected=name in the file")] = None,
    shape: Annotated[str | None, typer.Option(help="How the rows are written.")] = None,
    config: Annotated[str | None, typer.Option(help="Of a folder or a data set of the hub.")] = None,
    split: Annotated[str | None, typer.Option(help="Of a folder or a data set of the hub.")] = None,
    revision: Annotated[str, typer.Option(help="Of a data set of the hub.")] = "main",
    encoding: Annotated[str, typer.Option(help="Of the text.")] = "utf-8",
    separator: Annotated[str | None, typer.Option(help="Between the documents of a plain text.")] = None,
    template: Annotated[str | None, typer.Option(help="A chat template by name or file; else the model's.")] = None,
    max_length: Annotated[
        int | None, typer.Option(help="Tokens; else the stage's in the recipe, and no limit with --tokenizer.")
    ] = None,
    held_out: Annotated[float, typer.Option(help="Share of the rows.")] = 0.05,
    learn: Annotated[str, typer.Option(help="What carries loss: answers, last or everything.")] = "answers",
    as_json: JsonOption = False,
) -> None:
    """Show what would become of a file's rows, and which of their tokens would be learned. Exit code 2 for bad rows."""
    model = Model(id=tokenizer, template=template) if tokenizer else None
    loaded = None
    if not files or (recipe and not model):
        loaded = load_recipe(recipe or shipped.default())
    elif model:
        loaded = Recipe(name="check", model=model, stages={})
    elif template or max_length:
        raise PipelineError(
            f"--{'template' if template else 'max-length'}: without a tokenizer there are no tokens, only words.",
            "Name a model with --tokenizer, or a recipe.",
        )
    if unpaired := [pair for pair in columns or [] if "=" not in pair]:
        raise PipelineError(f"--column {unpaired[0]}: names no column.", "Write --column expected=name.")
    if not files and not stage:
        raise PipelineError("There is nothing to check.", "Name files, or a stage of the recipe with --stage.")
    if not files and (any((columns, shape, config, split, separator)) or learn != "answers"):
        raise PipelineError("The recipe says how its own rows are read.", "Name files, or leave these options out.")
    own = None if files else loaded
    if model:
        loaded = loaded.model_copy(update={"model": model, "stages": {}})
    elif template:
        loaded = loaded.model_copy(update={"model": loaded.model.model_copy(update={"template": template})})
    if own:
        data = own.stage(stage).data
    else:
        data = data_section(
            path=files,
            config=config,
            split=split,
            revision=revision,
            held_out=held_out,
            columns=dict(pair.split("=", 1) for pair in columns or []),
            shape=shape,
            encoding=encoding,
            separator=separator,
            learn=learn,
        )
    report = _checked(data.pinned(runs / (loaded.name if loaded else "check")), stage, loaded, runs, max_length, own)
    if as_json:
        show_json(report.to_json())
    else:
        data_report.of_file(Screen(make_console()), report, ", ".join(files or [f"the data of {stage}"]))
    raise typer.Exit(2 if report.bad else 0)


def _checked(
    data: Data,
    stage: str | None,
    loaded: Recipe | None,
    runs: Path,
    max_length: int | None,
    own: Recipe | None,
):
    """The report. `own` is the recipe where the rows are those that it gives the stage; `loaded` has the tokenizer."""
    from pipeline.data import check
    from pipeline.data.prepare import kinds
    from pipeline.data.tokens.words import Words

    if stage and stage not in specs():
        raise PipelineError(f"--stage {stage}: no such stage.", f"There are {', '.join(specs())}.")
    kind = specs()[stage].row_kind if stage else kinds.kind_of(data)
    if loaded is None:
        return check.check(data, kind, Words(data.learn))
    from pipeline.model.base import positions
    from pipeline.train.job.machine import available_cores, before_imports, importing

    before_imports(False)
    # A row that is longer than the model is told by the report, in better words.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    with importing(), nullcontext() if loaded.model.trust_remote_code else _without_torch():
        from pipeline.model.tokenizer import of_recipe
    from pipeline.data.tokens.encoder import Encoder
    from pipeline.plan.methods import tuning
    from pipeline.recipe.fields import effective
    from pipeline.train.rows import enough

    stage = stage or next(iter(kinds.stages_of(kind)))
    prepared = of_recipe(loaded, runs)
    if stage in loaded.stages and not max_length:
        given = effective(specs()[stage].config, loaded.given(stage, full=False))
        response = specs()[stage].response
        if response or given.get("max_length"):
            most = positions(loaded, loaded.model.id, loaded.model.revision)
            method, fields = tuning(loaded, stage, None)
            most = most and most - method.positions(fields)
            limits = [one for one in (given.get("max_length"), most) if one]
            max_length = min(limits) - (given[response] if response else 0) if limits else None  # that has its own room
    encoder = Encoder(
        prepared.tokenizer,
        max_length,
        data.on_too_long,
        through_suffix=specs()[stage].head == "score",
        learn=data.learn,
    )
    report = check.check(data, kind, encoder, enough(own, stage, max_length) if own else None, available_cores())
    return replace(report, notes=prepared.notes)


@contextmanager
def _without_torch() -> Iterator[None]:
    """Import transformers for its tokenizers alone: torch, which they do not need, takes most of its seconds."""
    heavy = set() if {"torch", "transformers"} & sys.modules.keys() else {"torch", "accelerate"}
    sys.modules.update(dict.fromkeys(heavy))
    try:
        yield
    finally:
        for name in heavy:
            del sys.modules[name]
