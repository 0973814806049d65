"""The engine. One folder answers one question, and stands on the folders below it:

    reference  what can be written, asked and read?
    cli        what can I ask for?
    use        what can I do with it?
    chain      how does a program ask for it?
    run        who does it?
    report     the page on which a chain is judged
    console    what do I see?
    train      how is a stage done?
    ppo        the training loop that is ours
    start      how does a recipe begin?
    plan       what would be done, and why?
    reward     what is a response worth?
    evaluate   was it worth it?
    model      what is trained?
    recipe     what does a person write?
    data       what is it trained on?
    artifact   what is kept?    (and hub: what lies elsewhere)
    errors, installing, ranks, section, stage, wording: the ground

A recipe is read, planned, and run stage by stage, each in a process of its own. tests/test_floors.py holds the order.

From Python there are the names below, see docs/how-to/python.md. All else may change. They are loaded when they are used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.chain import Artifact, Chain, FallsShort
    from pipeline.errors import MachineError, PipelineError
    from pipeline.plan.step import Step
    from pipeline.recipe.reading import load_recipe
    from pipeline.recipe.recipe import Recipe

__all__ = ["Artifact", "Chain", "FallsShort", "MachineError", "PipelineError", "Recipe", "Step", "load_recipe"]

_HOMES = {
    "Artifact": "pipeline.chain",
    "Chain": "pipeline.chain",
    "FallsShort": "pipeline.chain",
    "MachineError": "pipeline.errors",
    "PipelineError": "pipeline.errors",
    "Recipe": "pipeline.recipe.recipe",
    "Step": "pipeline.plan.step",
    "load_recipe": "pipeline.recipe.reading",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
