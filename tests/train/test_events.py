"""Every event that a stage's process tells of is in the list, and what shows events shows none that is never told."""

import ast

from conftest import PROJECT

from pipeline.console.display import Display
from pipeline.train.job.events import EVENTS


def reported() -> set[str]:
    calls = [
        node
        for path in (PROJECT / "pipeline").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)
    ]
    return {one.args[0].value for one in calls if getattr(one.func, "attr", getattr(one.func, "id", "")) == "report"}


def test_the_list_of_events_is_what_is_reported():
    assert reported() == EVENTS.keys()


def test_what_is_shown_is_an_event():
    shown = {name.removeprefix("_on_") for name in vars(Display) if name.startswith("_on_")}
    assert shown <= EVENTS.keys()
    assert EVENTS.keys() - shown == {
        "error",
        "interrupted",
        "started",
    }  # which the run itself answers, see pipeline.run.run
