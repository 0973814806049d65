"""README.md and `make` say what is: what is quoted came from a run of today's recipe, and what is shown works as it stands."""

import io
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import readme
from conftest import PROJECT, align
from rich.console import Console

from pipeline.artifact.manifest import write_manifest
from pipeline.console import tables
from pipeline.console.screen import Screen
from pipeline.plan.planner import Planner
from pipeline.plan.step import UP_TO_DATE
from pipeline.recipe.reading import load_recipe
from pipeline.stage import specs

RECORD = json.loads(readme.RECORD.read_text(encoding="utf-8"))
TEXT = readme.README.read_text(encoding="utf-8")
AGAIN = "run `make readme`"


def blocks(language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    return [text for of, text in fenced if of == language]


def test_the_readme_quotes_what_a_run_printed():
    assert readme.quoted(TEXT) == readme.quotations(RECORD), AGAIN


def test_the_quoted_figures_are_those_of_the_manifests():
    console = Console(file=io.StringIO(), width=160)
    tables.learned(Screen(console), [RECORD["manifests"][stage] for stage in ("pretrain", "sft", "dpo", "ppo")])
    table = [line.split() for line in console.file.getvalue().splitlines() if line.strip()]
    quoted = [line.split() for shown in readme.quoted(TEXT).values() for line in shown.splitlines()]
    assert len(table) > 10 and [row for row in table if row not in quoted] == [], AGAIN


def test_what_is_quoted_is_of_todays_recipe_and_data(tmp_path, monkeypatch):
    """A plan over artifacts that are what the run left finds nothing to do; the parents' weights are the recorded ones."""
    monkeypatch.chdir(PROJECT)
    for stage, manifest in RECORD["manifests"].items():
        folder = tmp_path / "tiny" / stage / manifest["fingerprint"]
        output = folder / manifest["output"]
        output.mkdir(parents=True)
        if output.name == "adapter":
            (output / "adapter_config.json").write_text('{"peft_type": "LORA"}')
        write_manifest(folder, manifest)
    loaded = load_recipe("recipes/tiny.yaml")
    steps = Planner(loaded, tmp_path).plan(loaded.stages)
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


def test_the_readmes_commands_are_there():
    goals = re.search(r"^\.PHONY: (.*)$", (PROJECT / "Makefile").read_text(), re.MULTILINE)[1].split()
    lines = [line.partition("#")[0].strip() for block in blocks("") for line in block.splitlines()]
    made = [line.split()[1:] for line in lines if line.startswith("make ")]
    named = {word for words in made for word in words if re.fullmatch(r"[a-z-]+", word)}
    assert {"sft", "dpo", "compare", "test"} <= named <= {*goals, *specs()}
    assert not re.search(r"^align ", "\n".join(lines), re.MULTILINE), "it is on no PATH: write .venv/bin/align"


@pytest.fixture
def fresh(tmp_path) -> Path:
    """A clone in which nothing is installed."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(PROJECT / name, tmp_path)
    shutil.copytree(PROJECT / "stages", tmp_path / "stages")
    return tmp_path


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    # As from a shell: a make inside of `make test` would also tell which folder it enters.
    shell = {key: value for key, value in os.environ.items() if key not in ("MAKELEVEL", "MAKEFLAGS", "MFLAGS")}
    return subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True, env=shell)


def test_make_alone_lists_the_goals_and_does_nothing(fresh):
    done = make(fresh)
    goals = re.search(r"^\.PHONY: (.*)$", (fresh / "Makefile").read_text(), re.MULTILINE)[1].split()
    told = [goal for goal in [*goals, *specs()] if goal not in ("help", "unsloth-there", "$(STAGES)")]
    assert done.returncode == 0 and [goal for goal in told if not re.search(rf"\b{goal}\b", done.stdout)] == []
    for variable in ("RECIPE", "RUNS", "FRESH", "POLICY", "UNSLOTH", "SET"):
        assert f"{variable}=" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100 and not (fresh / ".venv").exists()
    assert "align run" in make(fresh, "-n", "all").stdout


def test_make_compare_installs_nothing_unasked(fresh):
    done = make(fresh, "compare", "STAGE=sft")
    assert done.returncode == 2 and "make unsloth" in done.stdout and not (fresh / ".venv").exists()
    assert "STAGE=sft" in make(fresh, "compare").stdout


def test_the_version_is_told():
    said = align("--version", cwd=PROJECT).stdout
    assert re.match(r"align \d+\.\d+", said) and "trl 1." in said


def test_recipes_are_listed_with_their_chain():
    said = align("recipes", cwd=PROJECT).stdout
    assert "recipes/tiny.yaml  pretrain -> sft -> dpo, reward, ppo\n" in said
    assert "recipes/qwen3-4b-16gb.yaml  sft -> reward, (dpo -> ppo)\n" in said


def test_a_shown_recipe_is_whole_and_the_same(tmp_path):
    from pipeline.recipe.fields import LORA, ON_A_GPU, fields_of
    from pipeline.recipe.owned import ADAPTER_OWNED, OWNED

    shown = align("recipe", "show", "recipes/tiny.yaml", cwd=PROJECT).stdout
    (tmp_path / "shown.yaml").write_text(shown)
    loaded, again = load_recipe(PROJECT / "recipes" / "tiny.yaml"), load_recipe(tmp_path / "shown.yaml")
    assert again.resolved() == loaded.resolved()
    for name, stage in again.stages.items():
        config = specs()[name].config
        left = fields_of(config).keys() - stage.train.keys()
        assert left == (left & OWNED.keys()) | set(ON_A_GPU)
    adapter = again.stages["sft"].adapter.resolved()
    assert fields_of(LORA).keys() - adapter.keys() == ADAPTER_OWNED.keys()
