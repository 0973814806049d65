"""From a base model to an aligned one: each stage trains on the checkpoint of the stage before it."""

from importlib import metadata
from typing import Annotated

import typer

from pipeline.cli import (
    artifacts,
    chain,
    compare,
    data,
    doctor,
    evaluate,
    exports,
    init,
    methods,
    publishing,
    recipes,
    reports,
    talk,
)
from pipeline.console.screen import Screen, make_console
from pipeline.errors import PipelineError
from pipeline.run import stopping

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
recipe_app = typer.Typer(no_args_is_help=True, help="Look at one recipe.")
data_app = typer.Typer(no_args_is_help=True, help="Look at data.")
chains = (
    chain.run,
    chain.plan,
    chain.status,
    reports.report,
    reports.diff,
    reports.tensorboard,
    compare.compare,
    artifacts.gc,
    methods.methods,
)
for command in (*chains, evaluate.evaluate, talk.chat, talk.serve, exports.merge, exports.export):
    app.command()(command)
for command in (publishing.publish, publishing.verify):
    app.command()(command)
app.command()(init.init)
app.command()(doctor.doctor)
app.command("recipes")(recipes.list_recipes)
recipe_app.command("show")(recipes.show_recipe)
data_app.command("check")(data.check_data)
app.add_typer(recipe_app, name="recipe")
app.add_typer(data_app, name="data")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"align {_installed('align-pipeline')}")
        print(", ".join(f"{name} {_installed(name)}" for name in ("torch", "transformers", "trl", "peft", "unsloth")))
        raise typer.Exit


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show what is installed.")
    ] = False,
) -> None:
    pass


def main() -> None:
    try:
        app()
    except PipelineError as error:
        Screen(make_console()).error(error)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except SystemExit as ended:
        raise SystemExit(stopping.exit_code(ended.code)) from None


if __name__ == "__main__":
    main()
