"""The lessons are true: each of their commands is one, each recipe that they show loads, each line that they quote was printed."""

import json
import re

import pytest
import readme
from conftest import PROJECT
from lessons import PAGES, asked, blocks, commands

from pipeline.recipe.reading import load_recipe

QUOTED = re.compile(r"<!-- of the README's run -->\n```\n(.*?)^```$", re.DOTALL | re.MULTILINE)
WRITTEN = re.compile(r"# (recipes/[\w.-]+\.yaml)\n")
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))


@pages
def test_its_commands_are_such_and_name_recipes_that_are_there(page, tmp_path):
    """The recipe that a command names is the project's, or one that the page has shown; with its --set it loads."""
    shown = recipes(page, tmp_path)
    for line in commands(page):
        assert line.startswith(("make ", ".venv/bin/align ")), f"{line}: is no command"
        for command, given in asked(line):
            recipe = given.get("recipe")
            if command.startswith("init") or recipe is None:
                shown |= {str(recipe): None}
                continue
            file = shown.get(str(recipe), PROJECT / recipe)
            assert file is None or load_recipe(file, given.get("overrides") or []).name, line


@pages
def test_the_recipes_that_it_shows_load(page, tmp_path):
    for file in recipes(page, tmp_path).values():
        assert load_recipe(file, []).name == file.stem


def recipes(page, folder) -> dict:
    """The files that a page tells to write, by their paths."""
    found = {}
    for block in blocks(page, "yaml"):
        if name := WRITTEN.match(block):
            file = folder / name[1].removeprefix("recipes/")
            file.write_text(block, encoding="utf-8")
            found[name[1]] = file
    return found


@pages
def test_what_it_quotes_of_the_readmes_run_was_printed(page):
    printed = json.loads(readme.RECORD.read_text(encoding="utf-8"))["printed"]
    lines = {" ".join(line.split()) for text in printed.values() for line in text.splitlines()}
    quoted = [line for block in QUOTED.findall(page.read_text(encoding="utf-8")) for line in block.splitlines()]
    assert [line for line in quoted if " ".join(line.split()) not in lines] == [], "quote what readme.json has"


@pages
def test_it_is_short(page):
    if page.name == "troubleshooting.md":
        return  # is searched, not read through
    most = 150 if page.parent == PROJECT else 130  # the READMEs
    assert len(page.read_text(encoding="utf-8").splitlines()) <= most
