"""Options that several commands take, each said once."""

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from pipeline.recipe import shipped
from pipeline.recipe.launch import of_slurm
from pipeline.recipe.reading import load_recipe
from pipeline.recipe.yaml_lines import Typed
from pipeline.stage import specs

DEFAULT_RECIPE = shipped.DEFAULT


def found(context: typer.Context, parameter: typer.CallbackParam, recipe: Path | None) -> Path | None:
    """The embedded default, also outside of a clone, where no recipe was named."""
    named = context.get_parameter_source(parameter.name)
    return recipe if recipe is None or named.name != "DEFAULT" else shipped.default()


RecipeOption = Annotated[
    Path,
    typer.Option("--recipe", "-r", help="The recipe: one YAML file for the whole chain.", callback=found),
]
RunsOption = Annotated[Path, typer.Option("--runs", help="Where artifacts go.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Override a key: stages.dpo.train.beta=0.05")]
PolicyOption = Annotated[str | None, typer.Option("--policy", help="Start the first stage named from this adapter.")]
FreshOption = Annotated[bool, typer.Option("--fresh", help="Another attempt, beside what is there.")]
UnslothOption = Annotated[
    bool | None, typer.Option("--unsloth/--no-unsloth", help="Load and run models with Unsloth, or not.")
]
ProcessesOption = Annotated[
    str | None, typer.Option("--processes", help="Train with so many processes, or auto: one for each GPU.")
]
StrategyOption = Annotated[
    str | None,
    typer.Option(
        "--strategy",
        help="What several hold: ddp, the whole model each; fsdp, a part of it each; zero1, zero2, zero3, DeepSpeed's.",
    ),
]
NodesOption = Annotated[int | None, typer.Option("--nodes", help="Train on so many machines. (SLURM's by default)")]
NodeRankOption = Annotated[
    int | None, typer.Option("--node-rank", help="Which of the machines this is, from 0; the first shows the progress.")
]
RendezvousOption = Annotated[
    str | None, typer.Option("--rendezvous", help="Where they meet: the first one's address and port, host:29500.")
]
NoLookAheadOption = Annotated[
    bool, typer.Option("--no-look-ahead", help="Train at once, without preparing the rows of the later stages first.")
]
GpuOption = Annotated[
    str | None,
    typer.Option("--gpu", help="Hold it against a card of so many GB, or a T4, instead of this machine's own."),
]
FitOption = Annotated[
    str | None, typer.Option("--fit", help="Say what would make every stage fit a card of so many GB, or a T4.")
]
MemoryOption = Annotated[bool, typer.Option("--memory", help="Show of what the memory that a stage needs consists.")]
JsonOption = Annotated[bool, typer.Option("--json", help="The same for a program to read.")]
Stages = Annotated[
    list[str] | None,
    typer.Argument(help="The stages; all of the recipe where none is named.", autocompletion=lambda: list(specs())),
]


def said_of(recipe: Path, runs: Path = Path("runs")) -> str:
    """What a command that is proposed has to be told, as this one was: nothing where both are the defaults."""
    told = [("--recipe", recipe)] * (recipe not in (DEFAULT_RECIPE, shipped.default())) + [("--runs", runs)] * (
        runs != Path("runs")
    )
    return "".join(f" {option} {shlex.quote(str(path))}" for option, path in told)


def with_switches(
    recipe: Path, overrides: list[str], unsloth: bool | None, processes: str | None = None, **machines: object
) -> list[str]:
    """The switches of the command line go before all that the recipe says of them, for the chain and for a stage.

    `machines` are strategy, nodes, node_rank and rendezvous, as far as they are given; they go before SLURM's.
    """
    asked = machines | {"processes": processes}
    said = [
        Typed(f"launch.{key}={value}", f"--{key.replace('_', '-')} {value}")
        for key, value in asked.items()
        if value is not None
    ]
    by_slurm = [Typed(one, f"SLURM's {one}") for one in of_slurm(os.environ)]
    overrides = [*by_slurm, *overrides, *said]
    if unsloth is None:
        return overrides
    own = [f"stages.{name}.use_unsloth=null" for name in load_recipe(recipe, overrides).stages]
    switch = "--unsloth" if unsloth else "--no-unsloth"
    return [*overrides, *(Typed(one, switch) for one in (f"use_unsloth={str(unsloth).lower()}", *own))]
