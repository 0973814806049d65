"""How long the rows of a stage are: written down when they are prepared, so that a plan need not take them for as long as they may be.

In the recipe's folder in runs/, by stage, under a hash of what the lengths depend on: other data or another max_length, and they
are not known any more.
"""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from pipeline.artifact.digests import canonical
from pipeline.artifact.writing import write_json
from pipeline.errors import PipelineError
from pipeline.plan.planner import Planner
from pipeline.recipe.fields import effective
from pipeline.stage import specs

FILE = "lengths.json"
_HOW = {
    "dtype",
    "load_in_4bit",
    "load_in_8bit",
    "attn_implementation",
}  # of the model, and no matter for a row's length


def known(planner: Planner, name: str) -> Mapping[str, int]:
    """What is known of the rows: `row` and `prompt` are tokens of the longest, `tokens` of one pass over `rows` of them; nothing
    where they were not prepared, or otherwise.
    """
    said = _read(planner.folder / FILE).get(name, {})
    if not said or said.get("key") != _key(planner, name):
        return {}
    return {key: value for key, value in said.items() if key != "key"}


def remember(planner: Planner, name: str, found: Mapping[str, int]) -> None:
    """Write down what `known` gives."""
    file = planner.folder / FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, _read(file) | {name: {"key": _key(planner, name)} | dict(found)})


def _key(planner: Planner, name: str) -> str | None:
    if planner.contents.unknown(name):
        return None
    recipe, spec = planner.recipe, specs()[name]
    stage = recipe.stage(name)
    train = effective(spec.config, stage.train)
    try:
        contents = planner.contents.of(name)
    except (PipelineError, OSError):
        return None
    what = {
        "contents": contents,
        "data": stage.data.model_dump(mode="json", exclude={"on_bad_row"}),
        "model": recipe.model.model_dump(mode="json", exclude=_HOW),
        "lengths": [train.get("max_length"), spec.response and train[spec.response]],
        "rows": recipe.rows_needed(name),
    }
    return sha256(canonical(what)).hexdigest()[:16]


def _read(file: Path) -> dict:
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}
