"""`make` in a fresh clone: it tells its goals and installs nothing unasked."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import PROJECT

from pipeline.stage import specs


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
    goals = " ".join(re.findall(r"^\.PHONY: (.*)$", (fresh / "Makefile").read_text(), re.MULTILINE)).split()
    told = [goal for goal in [*goals, *specs()] if goal not in ("help", "unsloth-there", "$(STAGES)")]
    assert done.returncode == 0 and [goal for goal in told if not re.search(rf"\b{goal}\b", done.stdout)] == []
    for variable in ("RECIPE", "RUNS", "FRESH", "POLICY", "UNSLOTH", "SET"):
        assert f"{variable}=" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100 and not (fresh / ".venv").exists()
    assert "align run" in make(fresh, "-n", "all").stdout


@pytest.mark.parametrize("use", ["chat", "merge", "export FORMAT=gguf", "publish TO=here", "evaluate TASKS=mine"])
def test_what_was_just_trained_is_what_is_used(fresh, use):
    verb = use.split()[0]
    for goals, used in {"sft dpo": "dpo", "sft reward": "sft", "sft dpo STAGE=sft": "sft", "": ""}.items():
        lines = make(fresh, "-n", *goals.split(), *use.split()).stdout.splitlines()
        (line,) = [line for line in lines if f"align {verb} " in line]
        assert " ".join(line.split()).startswith(f".venv/bin/align {verb} {used} --recipe".replace("  ", " "))


def test_make_compare_installs_nothing_unasked(fresh):
    done = make(fresh, "compare", "STAGE=sft")
    assert done.returncode == 2 and "make unsloth" in done.stdout and not (fresh / ".venv").exists()
    assert "STAGE=sft" in make(fresh, "compare").stdout
