"""The commands that run a chain, or ask about one."""

from pathlib import Path

import typer

from pipeline.cli import exports
from pipeline.cli.options import (
    DEFAULT_RECIPE,
    FitOption,
    FreshOption,
    GpuOption,
    JsonOption,
    MemoryOption,
    NodeRankOption,
    NodesOption,
    NoLookAheadOption,
    PolicyOption,
    ProcessesOption,
    RecipeOption,
    RendezvousOption,
    RunsOption,
    SetOption,
    Stages,
    StrategyOption,
    UnslothOption,
    with_switches,
)
from pipeline.console import benchmarks as shown_benchmarks
from pipeline.console import memory, tables
from pipeline.console.display import Display
from pipeline.console.for_programs import show_json
from pipeline.console.screen import Screen, make_console
from pipeline.errors import PipelineError
from pipeline.plan import checks
from pipeline.plan.memory import card
from pipeline.plan.memory.earlier_runs import EarlierRuns
from pipeline.plan.memory.fit import fitted
from pipeline.plan.memory.reckoned import reckon
from pipeline.plan.memory.room import rooms
from pipeline.plan.planner import Planner
from pipeline.plan.processes import check as refuse_unshared
from pipeline.plan.step import CONTINUE, EVALUATE, RUN, UP_TO_DATE
from pipeline.recipe.reading import load_recipe
from pipeline.report import benchmarks
from pipeline.run.follow import Follow
from pipeline.run.run import Run
from pipeline.run.stopping import heeding_sigterm


@heeding_sigterm()
def run(
    stages: Stages = None,
    recipe: RecipeOption = DEFAULT_RECIPE,
    runs: RunsOption = Path("runs"),
    overrides: SetOption = None,
    policy: PolicyOption = None,
    unsloth: UnslothOption = None,
    processes: ProcessesOption = None,
    strategy: StrategyOption = None,
    nodes: NodesOption = None,
    node_rank: NodeRankOption = None,
    rendezvous: RendezvousOption = None,
    fresh: FreshOption = False,
    no_look_ahead: NoLookAheadOption = False,
) -> None:
    """Run stages, and first those that they stand on, as far as they are not up to date."""
    display = Display(make_console())
    machines = {"strategy": strategy, "nodes": nodes, "node_rank": node_rank, "rendezvous": rendezvous}
    overrides = with_switches(recipe, overrides or [], unsloth, processes, **machines)
    loaded = load_recipe(recipe, overrides)
    if fresh and loaded.launch.nodes > 1:
        raise PipelineError(
            "--fresh: on several machines each would begin another attempt for itself.",
            "Set another seed, or move the old attempt away.",
        )
    if loaded.launch.node_rank:
        raise typer.Exit(Follow(loaded, runs, stages or [], policy=policy, display=display).execute())
    run = Run(
        loaded,
        runs,
        stages or [],
        fresh=fresh,
        policy=policy,
        display=display,
        look_ahead=not no_look_ahead,
    )
    raise typer.Exit(run.execute())


def plan(
    stages: Stages = None,
    recipe: RecipeOption = DEFAULT_RECIPE,
    runs: RunsOption = Path("runs"),
    overrides: SetOption = None,
    policy: PolicyOption = None,
    unsloth: UnslothOption = None,
    processes: ProcessesOption = None,
    strategy: StrategyOption = None,
    nodes: NodesOption = None,
    node_rank: NodeRankOption = None,
    rendezvous: RendezvousOption = None,
    fresh: FreshOption = False,
    gpu: GpuOption = None,
    fit_gpu: FitOption = None,
    show_memory: MemoryOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show what `run` would do, and why, and what each stage needs on a GPU. Exit code 2 where data are missing."""
    if (nodes or 1) > 1 and rendezvous is None:
        rendezvous = "host:29500"  # a plan meets nobody
    machines = {"strategy": strategy, "nodes": nodes, "node_rank": node_rank, "rendezvous": rendezvous}
    loaded = load_recipe(recipe, with_switches(recipe, overrides or [], unsloth, processes, **machines))
    goals = stages or list(loaded.stages)
    to_fit = card.asked_for(fit_gpu, "--fit") if fit_gpu is not None else None
    asked = card.asked_for(gpu) if gpu is not None else to_fit or card.own()
    planner = Planner(loaded, runs, policy, for_card=(gpu or fit_gpu) is not None)
    steps = planner.plan(goals, fresh=goals if fresh else (), without_data=True)
    refuse_unshared(loaded, steps)
    needs = reckon(planner, steps)
    margin = EarlierRuns(runs).margin() if to_fit else None
    fits = fitted(needs, to_fit, margin) if to_fit else []
    spare = list(rooms(needs, to_fit, margin)) if to_fit and not any(fit.changes for fit in fits) else []
    if as_json:
        by_stage = {fit.stage: {"fit": fit.to_json()} for fit in fits}
        for one in spare:
            by_stage[one.stage]["room"] = one.to_json()
        both = zip(steps, needs, strict=True)
        rows = [step.to_json() | need.to_json(asked) | by_stage.get(step.stage, {}) for step, need in both]
        show_json(rows)
        raise typer.Exit(2 if any(step.missing for step in steps) else 0)
    screen = Screen(make_console())
    cells = {need.stage: memory.cell(need, asked) for need in needs}
    tables.plan(screen, steps, f"{loaded.name}: the plan{loaded.launch.words}", cells)
    memory.remarks(screen, needs, asked)
    memory.times(screen, needs, [step.stage for step in steps if step.state in (RUN, CONTINUE)])
    if show_memory:
        memory.bars(screen, needs, asked)
    if fits:
        memory.fit(screen, fits, to_fit, len(needs))
        memory.room(screen, spare, len(needs))
    checks.files_there(loaded, [step.stage for step in steps])


def status(
    stages: Stages = None,
    recipe: RecipeOption = DEFAULT_RECIPE,
    runs: RunsOption = Path("runs"),
    overrides: SetOption = None,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show where every stage of a recipe stands, and what it learned."""
    loaded = load_recipe(recipe, overrides or [])
    steps = Planner(loaded, runs, policy).plan(stages or list(loaded.stages))
    finished = [step for step in steps if step.state in (UP_TO_DATE, EVALUATE)]
    if as_json:
        rows = [
            step.to_json()
            | {"metrics": step.attempt.manifest["metrics"] if step in finished else None}
            | {"exports": exports.told(step.attempt) if step in finished else []}
            | {
                "benchmarks": [one.to_json() for one in benchmarks.of(step.attempt.folder)[0]]
                if step in finished
                else []
            }
            for step in steps
        ]
        show_json(rows)
        return
    screen = Screen(make_console())
    tables.plan(screen, steps, f"{loaded.name}: where it stands")
    if finished:
        tables.learned(screen, [step.attempt.manifest for step in finished])
        tables.where(screen, [(step.stage, step.attempt.output) for step in finished])
        exports.show(screen, [(step.stage, step.attempt) for step in finished])
        for step in finished:
            results, broken = benchmarks.of(step.attempt.folder)
            shown_benchmarks.show(screen, results, step.stage)
            for note in broken:
                screen.say(note)
