"""The recipes for a card and a goal: each says what it needs, as the plan reckons it, and reads the data that it names.

`shapes.json` has what the plan reads of a model's config.json, `hub_rows.json` the splits and columns of public data sets with an
invented row; both as their pages have them. Nothing is downloaded.
"""

import json
import re
from datetime import date
from pathlib import Path

import pytest
import yaml
from conftest import PROJECT

from pipeline.data import check
from pipeline.data.tokens.words import Words
from pipeline.plan.memory.card import GIB, named
from pipeline.plan.memory.reckoned import reckon
from pipeline.plan.memory.shape import shape_of
from pipeline.plan.planner import Planner
from pipeline.recipe.reading import load_recipe
from pipeline.stage import specs

HERE = Path(__file__).parent
SHAPES = json.loads((HERE / "shapes.json").read_text(encoding="utf-8"))
HUB = json.loads((HERE / "hub_rows.json").read_text(encoding="utf-8"))
RECIPES = sorted(PROJECT.glob("recipes/*.yaml"))
FOR_A_CARD = [file for file in RECIPES if file.stem != "tiny"]
COMMIT = "0" * 40
TABLE = PROJECT / "recipes" / "README.md"
LINES = 35
ROUNDED = 0.06  # GiB: figures are told to one decimal
one_each = pytest.mark.parametrize("file", FOR_A_CARD, ids=lambda file: file.stem)


def head(file: Path) -> str:
    """The comment on top of a recipe."""
    return re.match(r"(?:#.*\n)+", file.read_text(encoding="utf-8"))[0]


def paths(data) -> list[str]:
    return [data.path] if isinstance(data.path, str) else data.path


@pytest.fixture
def there(tmp_path, monkeypatch):
    """A folder with an empty file for each that a recipe wants, and the hub's cache with the configs of the models."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    for model, config in SHAPES.items():
        folder = tmp_path / "hub" / f"models--{model.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text(COMMIT)
        (folder / "snapshots" / COMMIT).mkdir(parents=True)
        (folder / "snapshots" / COMMIT / "config.json").write_text(json.dumps(config))

    def load(file: Path):
        recipe = load_recipe(file, [])
        for stage in recipe.stages:
            for path in map(Path, paths(recipe.stage(stage).data)):
                if not str(path).startswith("hub:"):
                    path = path if path.suffix else path / "one.txt"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.touch()
        return recipe

    return load


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_every_recipe_is_dated(file):
    assert date.fromisoformat(re.search(r"^# checked (\S+)$", head(file), re.MULTILINE)[1])


@one_each
def test_it_needs_what_it_says_and_fits_its_card(file, there):
    said = head(file)
    card = named(float(card_of(file)))
    quoted = re.findall(r"(\w+) ([\d.]+) GiB", re.search(r"^# memory: (.*)$", said, re.MULTILINE)[1])
    recipe = there(file)
    planner = Planner(recipe, Path("runs"))
    needs = reckon(planner, planner.plan(list(recipe.stages)))
    assert {one.stage: one.why_not for one in needs if one.need is None} == {}
    assert [stage for stage, _ in quoted] == list(yaml.safe_load(file.read_text(encoding="utf-8"))["stages"])
    now = {one.stage: one.need.bytes / GIB for one in needs}
    assert {stage: float(gib) for stage, gib in quoted} == pytest.approx(now, abs=ROUNDED)
    assert all(one.left(card) > 0.05 * card.bytes for one in needs), "a desktop wants some of it, too"


@one_each
def test_the_weights_take_the_disk_that_it_says(file):
    """At most two bytes for each parameter, a head that is stored beside the embeddings included."""
    shape = shape_of(SHAPES[load_recipe(file, []).model.id])
    most = 2 * (shape.parameters + (shape.head.numbers if shape.tied else 0))
    assert re.search(r"up to ([\d.]+) GB of disk", head(file))[1] == f"{most / 1e9:.1f}"


@one_each
def test_it_is_short(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= LINES


FROM_THE_HUB = [
    (file, stage, path)
    for file in FOR_A_CARD
    for recipe in [load_recipe(file, [])]
    for stage in recipe.stages
    for path in paths(recipe.stage(stage).data)
    if path.startswith("hub:")
]


@pytest.mark.parametrize(("file", "stage", "path"), FROM_THE_HUB, ids=lambda value: getattr(value, "stem", value))
def test_its_data_set_has_the_split_and_the_columns_that_the_stage_reads(file, stage, path, tmp_path):
    known, data = HUB[path.removeprefix("hub:")], load_recipe(file, []).stage(stage).data
    held_out = data.held_out
    named_splits = [data.split, *([held_out.split] if hasattr(held_out, "split") else [])]
    assert set(named_splits) <= set(known["splits"]) and data.config in known.get("configs", [None])
    rows = [json.dumps(known["row"]).replace("{n}", str(n)) for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    here = {"path": str(tmp_path / "rows.jsonl"), "split": None, "config": None, "held_out": 0.0, "max_rows": None}
    spec = specs()[stage]
    found = check.check(data.model_copy(update=here), spec.row_kind, Words(data.learn))
    assert (found.bad_rows, found.mistakes, found.summary["trained"]) == (0, [], 40)
    if (recipe := load_recipe(file, [])).stage(stage).rewards:  # which read a column of the row
        assert "answer" in known["row"] and recipe.stage(stage).rewards[0].function == "number"
    told = re.search(rf"{stage} reads ([\w, ]+)", head(file))[1].split(", ")
    assert set(told) <= known["row"].keys()


def test_the_table_has_every_recipe_with_its_card_and_its_largest_need():
    rows = re.findall(r"^\| (\S+)(?: GB)? \| \[`(.*?)`\].*?\|([^|]*)\|$", TABLE.read_text("utf-8"), re.MULTILINE)
    told = {name: (card, need.strip()) for card, name, need in rows}
    assert told == {"tiny": ("none", "")} | {file.stem: (card_of(file), largest(file)) for file in FOR_A_CARD}


def card_of(file: Path) -> str:
    return re.search(r"a card of (\d+) GB", head(file).partition("# needs")[2])[1]


def largest(file: Path) -> str:
    return f"{max(map(float, re.findall(r'([0-9.]+) GiB', head(file))))} GiB"
