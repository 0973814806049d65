"""What others get, and whether it is what it says."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from pipeline.cli.options import DEFAULT_RECIPE, JsonOption, RecipeOption, RunsOption, SetOption, said_of
from pipeline.console.for_programs import show_json
from pipeline.console.screen import Screen, make_console
from pipeline.errors import PipelineError
from pipeline.recipe.reading import load_recipe
from pipeline.train.job.machine import before_imports
from pipeline.use.subject import last_policy

if TYPE_CHECKING:
    from pipeline.use.publication import Publication

SubjectArgument = Annotated[
    str | None,
    typer.Argument(help="A stage of the recipe, or a folder; the last trained policy where nothing is named."),
]


def publish(
    subject: SubjectArgument = None,
    repo: Annotated[str | None, typer.Option("--repo", help="The repository on the hub: owner/name.")] = None,
    to: Annotated[
        Path | None, typer.Option("--to", help="Put what would go into this folder, and send nothing.")
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Everybody may see it; without it a repository is private.")
    ] = False,
    what: Annotated[
        str | None,
        typer.Option("--what", help="adapter, model, or the format of an export: merged, gguf, gguf-adapter, onnx."),
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", help="Where the base of the adapter is on the hub: owner/name.")
    ] = None,
    license: Annotated[
        str | None, typer.Option("--license", help="Of what is published, as the hub writes it.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a repository that holds something else.")] = False,
    recipe: RecipeOption = DEFAULT_RECIPE,
    runs: RunsOption = Path("runs"),
    overrides: SetOption = None,
) -> None:
    """Publish an adapter or a model on the Hugging Face hub, with a card that says what it is and where it comes from."""
    from pipeline.use.choice import chosen
    from pipeline.use.known import known
    from pipeline.use.publication import publication
    from pipeline.use.push import Hub

    if not (repo or to):
        raise PipelineError("publish: where to?", "--repo owner/name, or --to folder to see what would go.")
    _quiet()
    screen = Screen(make_console())
    loaded = load_recipe(recipe, overrides or [])
    name = subject or last_policy(loaded, runs)
    found = chosen(name, what, loaded, runs)
    going = publication(found)
    if base:
        if not going.lacks_base:
            why = (
                f"stands on {on}"
                if (on := going.lineage["base"]["repository"]) and found.what == "adapter"
                else "needs none"
            )
            raise PipelineError(f"--base: {name} {why}.", "Leave --base out.")
        going = publication(found, Hub(base).base(going))
    if going.lacks_base:
        screen.message(
            f"The base of {escape(name)} is on this machine alone: nobody else can use the adapter. Merge it (align merge "
            f"{escape(name + said_of(recipe, runs))}) and publish that with --what merged; or publish the base, and say where with --base owner/name.",
            "yellow",
        )
    if to:
        place = to.absolute()  # the card tells the way to it from here, and nothing of what is above
        shown = place.relative_to(Path.cwd()) if place.is_relative_to(Path.cwd()) else place.name
        going = going.told(known(going.lineage, repo or str(shown), license))
        going.write(to)
        _list(screen, going)
        screen.say(f"{to}: what would go{f' to {repo}' if repo else ''}; nothing was sent")
        return
    hub = Hub(repo)
    hub.check_account()
    going = going.told(known(going.lineage, repo, license, hub.api))
    state = hub.state()
    hub.check(state, going, public, force)
    _list(screen, going)
    pushed = hub.push(going, state, public)
    seen = "public" if public else "private"
    screen.say(
        f"{pushed.url} ({seen}), commit {pushed.commit[:12]}" + ("" if pushed.new else ": was all there already")
    )


def _quiet() -> None:
    """Before the hub's client and the heavy libraries are imported: only a terminal gets progress bars."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "0" if sys.stderr.isatty() else "1")
    before_imports(bitsandbytes=False)


def _list(screen: Screen, going: "Publication") -> None:
    for name, content in sorted(going.files.items()):
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        screen.say(f"  {name:<32} {size:>15,} bytes")


def verify(
    what: Annotated[str, typer.Argument(help="A stage's folder, what was published, or hub:owner/name[@revision].")],
    runs: RunsOption = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """Show what is proven of an artifact, an export or something published, and what is only claimed."""
    from pipeline.use import finding
    from pipeline.use.verify import of_hub
    from pipeline.use.verify import verify as verified

    if not what.startswith("hub:") and not Path(what).is_dir():
        raise PipelineError(f"{what}: is no folder.", "Name a folder, or a repository of the hub: hub:owner/name.")
    _quiet()
    folder, left = of_hub(what) if what.startswith("hub:") else (Path(what), [])
    findings = [*verified(folder, runs), *left]
    wrong = [one for one in findings if one.state == finding.WRONG]
    if as_json:
        show_json({"of": what, "ok": not wrong, "findings": [one.to_json() for one in findings]})
        raise typer.Exit(2 if wrong else 0)
    screen = Screen(make_console())
    for state, style in (
        (finding.PROVEN, "green"),
        (finding.WRONG, "bold red"),
        (finding.OPEN, "yellow"),
        (finding.CLAIMED, "dim"),
    ):
        if some := [one for one in findings if one.state == state]:
            screen.message(state, style)
            for one in some:
                screen.say(f"  {one.what}: {one.said}")
    if wrong:
        raise PipelineError(f"{what}: is not what it says.")
