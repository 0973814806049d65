"""What is installed from a wheel runs in any folder: the stages, the recipes and the embedded default's data are in it."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import PROJECT

IN_IT = "pipeline stages recipes data pyproject.toml setup.py MANIFEST.in README.md LICENSE constraints.txt".split()


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The folder that a wheel of the project was unpacked into."""
    source, place = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in IN_IT:
        copy = shutil.copytree if (PROJECT / name).is_dir() else shutil.copy
        copy(PROJECT / name, source / name)
    build = "from setuptools import build_meta; build_meta.build_wheel('.')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (wheel,) = source.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(place)
    return place


def run(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def artifact(said: str) -> str:
    return next(line.split()[-1] for line in said.splitlines() if line.startswith("pretrain"))


def test_the_embedded_default_is_planned_in_an_empty_folder_as_the_very_same(installed, tmp_path):
    here = run(installed, tmp_path, "plan", "sft")
    assert here.returncode == 0 and list(tmp_path.iterdir()) == []
    assert artifact(here.stdout) == artifact(run(PROJECT, PROJECT, "plan", "sft").stdout)


def test_it_trains_from_there_and_finds_its_own_data(installed, tmp_path):
    few = [
        f"--set=stages.pretrain.{key}" for key in ("train.max_steps=1", "evaluation.max_rows=4", "data.max_rows=200")
    ]
    done = run(installed, tmp_path, "run", "pretrain", *few)
    assert done.returncode == 0, done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_recipes_lists_those_that_came_with_it(installed, tmp_path):
    said = run(installed, tmp_path, "recipes").stdout
    assert {Path(line.split()[0]).name for line in said.splitlines()} == {
        p.name for p in PROJECT.glob("recipes/*.yaml")
    }


def test_a_recipe_of_ones_own_keeps_its_own_paths(installed, tmp_path):
    shutil.copy(PROJECT / "recipes" / "tiny.yaml", tmp_path / "tiny.yaml")
    assert "path: data/tiny/sft.jsonl" in run(installed, tmp_path, "recipe", "show", "tiny.yaml").stdout


def test_a_recipe_that_is_not_here_but_came_with_it_is_pointed_to(installed, tmp_path):
    done = run(installed, tmp_path, "plan", "--recipe", "recipes/sentiment-qlora.yaml")
    assert done.returncode == 2 and str(installed / "pipeline/shipped/recipes/sentiment-qlora.yaml") in done.stdout
