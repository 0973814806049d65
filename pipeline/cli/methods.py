"""The command that tells the methods of tuning apart."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from pipeline.artifact.digests import Digests
from pipeline.cli.heavy import import_quietly
from pipeline.cli.options import DEFAULT_RECIPE, JsonOption, RecipeOption, RunsOption, SetOption
from pipeline.console.for_programs import show_json
from pipeline.console.screen import Screen, make_console
from pipeline.errors import PipelineError
from pipeline.model.adapters import METHODS, NAMED
from pipeline.model.adapters.method import ROLES, Method
from pipeline.plan.memory.reckoned import Reckoned, reckon
from pipeline.plan.planner import Planner
from pipeline.recipe.reading import load_recipe
from pipeline.recipe.recipe import Recipe
from pipeline.wording import not_among


def methods(
    names: Annotated[list[str] | None, typer.Argument(help="Methods; all of them where none is named.")] = None,
    recipe: RecipeOption = DEFAULT_RECIPE,
    runs: RunsOption = Path("runs"),
    overrides: SetOption = None,
    prove: Annotated[
        bool, typer.Option("--prove", help="Try on the recipe's base what the chain relies on; this loads it.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Tell the methods of tuning apart: what each would train of the recipe's model, where it serves, when to use it."""
    for name in names or []:
        if name not in METHODS:
            raise PipelineError(f"methods: {not_among(name, NAMED)}.")
    loaded = load_recipe(recipe, overrides or [])
    import_quietly(loaded.model.bits is not None)
    warnings.filterwarnings("ignore", category=UserWarning)  # PEFT's, of layers that it has no special form for
    wanted = [name for name in METHODS if name in (names or NAMED)]
    say = Screen(make_console()).say if not as_json else lambda text: None
    rows = _proven(loaded, runs, wanted, say) if prove else _counted(loaded, runs, wanted)
    if as_json:
        show_json(rows)
    else:
        from pipeline.console.methods import as_proofs, as_table

        make_console().print((as_proofs if prove else as_table)(rows, loaded.name))
    # What cannot be put onto the base at all is told, and a failure only of what was asked for.
    failing = [row["method"] for row in rows if prove and row["fails"] and (row["proofs"] or names)]
    if failing:
        raise PipelineError(
            f"Not all of it holds on the base of {recipe}: {', '.join(failing)}.",
            "Use another method there.",
        )


def _own(loaded: Recipe) -> dict[str, dict]:
    """The recipe's own settings of its method; the others are counted by their defaults."""
    settings = loaded.adapter.resolved()
    return {settings.pop("method"): settings}


def _counted(loaded: Recipe, runs: Path, wanted: list[str]) -> list[dict]:
    from pipeline.model.base import base_of
    from pipeline.model.census import counts
    from pipeline.model.tokenizer import of_recipe

    base = base_of(loaded, runs / loaded.name, Digests())
    vocabulary = len(of_recipe(loaded, runs).tokenizer) if base.source is None else 0
    whole, found = counts(base, loaded.model, vocabulary, [METHODS[name] for name in wanted], _own(loaded))
    rows = []
    for one in found:
        why_not = _off_the_base(one.method, loaded.model.bits) or one.why_not
        said = {"trained": one.trained, "saved": one.saved, "why_not": why_not}
        share = one.trained / whole if one.trained is not None else None
        needed = None if why_not else _needed(loaded, runs, one.method.name)
        rows.append(
            {
                "method": one.method.name,
                "share": share,
                **said,
                "memory": needed and needed.need and needed.need.bytes,
                "of": needed and needed.stage,
                **_served(one.method),
            }
        )
    return rows


def _off_the_base(method: Method, bits: int | None) -> str | None:
    return f"does not go onto a base in {bits} bits" if bits and not method.fits(bits) else None


def _not_tried(method: Method, loaded: Recipe, new_tokens: Sequence[str]) -> str | None:
    if why := _off_the_base(method, loaded.model.bits):
        return why
    if method.whole:
        return "trains the model's own weights: there is no adapter to prove anything of"
    if new_tokens and not method.new_tokens:
        return (
            f"cannot train the template's new tokens, {' '.join(new_tokens)}; model.template: plain and raw have none"
        )
    return None


def _needed(loaded: Recipe, runs: Path, name: str) -> Reckoned | None:
    """What the plan says of the recipe's first stage that is tuned; None where it says no."""
    tuned = loaded.adapter.resolved()["method"]
    stage = next((stage for stage in loaded.stages if loaded.tuning(stage)["method"] == tuned), None)
    own = [] if tuned == name else [f"adapter={{method: {name}}}"]
    try:
        recipe = load_recipe(loaded.path, [*loaded.overrides, *own])
        planner = Planner(recipe, runs)
        return stage and next(one for one in reckon(planner, planner.plan([stage])) if one.stage == stage)
    except PipelineError:
        return None


def _served(method: Method) -> dict:
    return {
        "beside": not method.whole and not method.why_not(ROLES),
        "in_4_bit": method.in_4_bit,
        "new_tokens": method.new_tokens,
        "merged": method.merged and not method.whole,
        "unsloth": method.unsloth,
        "when": method.when,
    }


def _proven(loaded: Recipe, runs: Path, wanted: list[str], say: Callable[[str], None]) -> list[dict]:
    from pipeline.model.base import base_of
    from pipeline.model.loader import Loader
    from pipeline.model.proofs import failures, prove
    from pipeline.model.tokenizer import of_recipe

    prepared, base = of_recipe(loaded, runs), base_of(loaded, runs / loaded.name, Digests())
    loader = Loader(loaded.model, loaded.seed, base, prepared)
    rows = []
    for method in (METHODS[name] for name in wanted):
        if why := _not_tried(method, loaded, prepared.new_tokens):
            rows.append({"method": method.name, "proofs": {}, "fails": [] if method.whole else [why], "not_tried": why})
            continue
        settings = _own(loaded).get(method.name, dict(method.defaults))
        try:
            found = prove(lambda: loader.model(None, None), method.of(settings), settings)
        except PipelineError as error:
            rows.append({"method": method.name, "proofs": {}, "fails": [error.what]})
            continue
        rows.append({"method": method.name, "proofs": found, "fails": list(failures(found))})
        say(f"{method.name}: {', '.join(rows[-1]['fails']) or 'holds'}")
    return rows
