"""The page of a recipe: its parts are put together, written as one file, and nothing that they quote can act in it."""

import hashlib
import time
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.artifact.writing import write_atomically
from pipeline.console.figures import number
from pipeline.plan.step import CONTINUE, RUNNING, UP_TO_DATE, Step
from pipeline.recipe.recipe import Recipe
from pipeline.report import curves, forgetting, verdict
from pipeline.report.answers import FOLDED
from pipeline.report.part import ATTEMPTS_SHOWN, Part
from pipeline.report.picture import BOX, Node, drawn
from pipeline.report.settings import shown
from pipeline.wording import listed

PAGE = "report.html"
MINUS = "\N{MINUS SIGN}"
_TEMPLATES = Path(__file__).parent / "templates"
_BASE = "base"


def write(
    recipe: Recipe, steps: Sequence[Step], folder: Path, *, notes: Iterable[str] = (), live: "Live | None" = None
) -> Path:
    """The page of `recipe` in its folder of runs. `steps` are a plan of its stages, as far as there is one."""
    parts = [
        Part(_now(step, live), folder / step.stage, live.steps if live and live.stage == step.stage else None)
        for step in steps
    ]
    seen = [part for part in parts if part.ever or part.running]
    trained = [(part.stage, part.verdict) for part in seen if part.manifest and part.current]
    waiting = [part.stage for part in seen if not part.current and not part.running]
    mark, answer = verdict.of_chain(trained, waiting)
    nodes = _nodes(recipe, seen)
    text = rendered(
        "report.html",
        recipe=recipe,
        mark=mark,
        sign=verdict.MARKS[mark][0],
        answer=answer,
        parts_of_chain=seen,
        never=listed(part.stage for part in parts if part not in seen) if len(seen) < len(parts) else "",
        forgetting=forgetting.table(seen),
        pictures=[drawn(nodes, direction) for direction in ("across", "down")],
        notes=list(notes),
        live=live,
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / PAGE, text)
    return folder / PAGE


class Live:
    """The stage that runs while the page is written: `steps` in all, once they are known; the page reloads by itself."""

    def __init__(self, stage: str, steps: int | None = None, every: float = 10):
        self.stage, self.steps, self.every = stage, steps, every


def rendered(name: str, **told: object) -> str:
    """A template with what it tells. Scripts other than our own are refused by the page itself."""
    script = (_TEMPLATES / "page.js").read_text(encoding="utf-8").strip()
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = (
        _environment()
        .get_template(f"{name}.jinja")
        .render(
            script=script,
            script_sha256=digest,
            written=time.strftime("%d %b %Y, %H:%M:%S"),
            now=int(time.time()),
            **told,
        )
    )
    return page.encode("utf-8", "replace").decode()  # half of a surrogate pair is no text


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {
        "number": number,
        "value": shown,
        "signed": _signed,
    }
    made.globals |= {"BOX": BOX, "CHART": curves, "ATTEMPTS_SHOWN": ATTEMPTS_SHOWN, "FOLDED": FOLDED}
    return made


def _signed(value: float) -> str:
    return f"{'+' if value >= 0 else MINUS}{number(abs(value))}"


def _now(step: Step, live: Live | None) -> Step:
    """A step of a plan that was made before its stage began."""
    if live and live.stage == step.stage:
        return replace(step, state=RUNNING, why="it runs now")
    return step


def _nodes(recipe: Recipe, parts: Sequence[Part]) -> list[Node]:
    there = {part.stage for part in parts}
    said = "made from a config" if recipe.model.config is not None else "pretrained"
    name = recipe.model.id or f"{recipe.model.config.get('model_type', 'a model')}"
    nodes = [Node(_BASE, (_short(str(name)), said), "", "base", "chain")]
    for part in parts:
        parent, reward = recipe.parent(part.stage), recipe.reward(part.stage)
        above = [(parent if parent in there else _BASE, "policy"), *([(reward, "reward")] if reward in there else [])]
        rows = f", {part.account['trained']:,} rows" if part.account else ""
        nodes.append(
            Node(
                part.stage,
                (_short("".join(part.files[:1])), f"{_state(part)}{rows}"),
                part.verdict.sign,
                part.verdict.mark,
                part.stage,
                tuple(above),
            )
        )
    return nodes


def _state(part: Part) -> str:
    if part.step.state == UP_TO_DATE:
        return "\N{CHECK MARK} up to date"
    return {RUNNING: "\N{BLACK RIGHT-POINTING TRIANGLE} running", CONTINUE: "to be continued"}.get(
        part.step.state, f"to {part.step.state}"
    )


def _short(text: str, most: int = 22) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}\N{HORIZONTAL ELLIPSIS}"
