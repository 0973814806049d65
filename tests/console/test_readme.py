"""README.md and docs/ say what is: what is quoted came from a run of today's recipe, and what is shown works as it stands."""

import io
import json
import re
from pathlib import Path

import pytest
import readme
from conftest import PROJECT
from rich.console import Console

from pipeline.artifact.manifest import write_manifest
from pipeline.console import tables
from pipeline.console.screen import Screen
from pipeline.plan.planner import Planner
from pipeline.plan.step import UP_TO_DATE
from pipeline.recipe.reading import load_recipe
from pipeline.stage import specs

RECORD = json.loads(readme.RECORD.read_text(encoding="utf-8"))
PAGES = {page.relative_to(PROJECT): page.read_text(encoding="utf-8") for page in readme.PAGES}
TEXT = "\n".join(PAGES.values())
AGAIN = "run `make readme`"


def blocks(language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    return [text for of, text in fenced if of == language]


def test_the_readme_quotes_what_a_run_printed():
    assert readme.quoted() == readme.quotations(RECORD), AGAIN


def test_the_quoted_figures_are_those_of_the_manifests():
    console = Console(file=io.StringIO(), width=160)
    tables.learned(Screen(console), [RECORD["manifests"][stage] for stage in ("pretrain", "sft", "dpo", "ppo")])
    table = [line.split() for line in console.file.getvalue().splitlines() if line.strip()]
    quoted = [line.split() for shown in readme.quoted().values() for line in shown.splitlines()]
    assert len(table) > 10 and [row for row in table if row not in quoted] == [], AGAIN


def test_what_is_quoted_is_of_todays_recipe_and_data(tmp_path, monkeypatch):
    """A plan over what the run left finds nothing to do; the parents' weights are the recorded ones."""
    monkeypatch.chdir(PROJECT)
    for stage, manifest in RECORD["manifests"].items():
        folder = tmp_path / "tiny" / stage / manifest["fingerprint"]
        output = folder / manifest["output"]
        output.mkdir(parents=True)
        if output.name == "adapter":
            (output / "adapter_config.json").write_text('{"peft_type": "LORA"}')
        write_manifest(folder, manifest)
    loaded = load_recipe("recipes/tiny.yaml")
    steps = Planner(loaded, tmp_path).plan(RECORD["manifests"])  # the recipe has more stages than the README quotes
    assert {step.stage: (step.state, step.why, step.changes) for step in steps if step.state != UP_TO_DATE} == {}, AGAIN
    assert {step.stage: step.fingerprint for step in steps} == {
        stage: manifest["fingerprint"] for stage, manifest in RECORD["manifests"].items()
    }


@pytest.mark.slow
def test_a_run_gives_the_quoted_figures(tmp_path):
    """On another kind of processor the last digits differ, and a policy goes its own way a little."""
    now = readme.run(tmp_path)["manifests"]
    for stage, manifest in RECORD["manifests"].items():
        for when, figures in manifest["metrics"].items():
            assert now[stage]["metrics"][when] == pytest.approx(figures, rel=0.1, abs=0.05), f"{stage} {when}: {AGAIN}"


def test_the_readmes_python_runs_as_it_stands(chain, monkeypatch, capsys):
    monkeypatch.chdir(chain)
    for block in blocks("python"):
        spoken = {}
        exec(block.replace("runs/tiny", "runs/micro"), spoken)
        if "exact_match" in spoken:  # a reward function
            assert spoken["exact_match"](["1 + 1?"] * 2, [" 2", "3"], answer=["2", "2"]) == [1.0, 0.0]
    answer, reward = capsys.readouterr().out.rstrip("\n").rsplit("\n", 1)
    assert len(blocks("python")) == 3 and answer and float(reward)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_leads_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", PAGES[page])
    local = [link for link in links if not re.match(r"https?://", link)]
    assert [link for link in local if not (PROJECT / page.parent / link).exists()] == []


@pytest.mark.parametrize("page", ["README.md", "README.zh.md"])
def test_the_readme_says_what_the_recipes_say_that_they_need(page):
    """Its rows are | base | method | stages | memory | weights on disk | recipe |, and the largest stage is what is needed."""
    rows = re.findall(r"\| ([^|]+) \| ([\d.]+) GiB \| ([\d.]+) GB \| \[`([\w.-]+)`\]", PAGES[Path(page)])
    for stages, memory, disk, name in rows:
        head = (PROJECT / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
        needs = dict(re.findall(r"(\w+) ([\d.]+) GiB", re.search(r"^# memory: (.*)$", head, re.MULTILINE)[1]))
        said = (stages.split(", "), float(memory), disk)
        assert said == (list(needs), max(map(float, needs.values())), re.search(r"([\d.]+) GB of disk", head)[1]), name
    assert len(rows) >= 5


def test_the_readmes_commands_are_there():
    goals = " ".join(re.findall(r"^\.PHONY: (.*)$", (PROJECT / "Makefile").read_text(), re.MULTILINE)).split()
    lines = [line.partition("#")[0].strip() for block in blocks("") for line in block.splitlines()]
    made = [line.split()[1:] for line in lines if line.startswith("make ")]
    named = {word for words in made for word in words if re.fullmatch(r"[a-z-]+", word)}
    assert {"sft", "dpo", "compare", "test"} <= named <= {*goals, *specs()}
    in_a_clone = "\n".join(
        text for page, text in PAGES.items() if page.name != "install.md"
    )  # which puts it on the PATH
    assert not re.search(r"^align ", in_a_clone, re.MULTILINE), "it is on no PATH: write .venv/bin/align"
