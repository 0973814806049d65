"""The commands of the lessons (README, tutorials, their Chinese twins, recipes, notebooks), taken apart without running them."""

import os
import re
import shlex
import subprocess
from pathlib import Path

from conftest import PROJECT
from typer.main import get_command

from pipeline.cli.main import app

OURS = ("make ", ".venv/bin/align ")
PAGES = [
    PROJECT / "README.md",
    PROJECT / "README.zh.md",
    *sorted(PROJECT.glob("docs/tutorials/*.md")),
    *sorted(PROJECT.glob("docs/zh/*.md")),
    PROJECT / "recipes/README.md",
]
NOTEBOOKS = sorted(PROJECT.glob("notebooks/*.ipynb"))


def blocks(page: Path, language: str = "") -> list[str]:
    """The fenced blocks of a language."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [text for of, text in fenced if of == language]


def commands(page: Path) -> list[str]:
    """Of a page's blocks of commands, each line."""
    of_commands = [block for block in blocks(page) if block.startswith(OURS)]
    return [line for block in of_commands for line in block.splitlines()]


def parse(arguments: list[str]) -> tuple[str, dict]:
    """The command that `align` would run with these arguments, and its parameters; fails as `align` would refuse them."""
    command = get_command(app)
    context = command.make_context("align", [], resilient_parsing=True)
    names = []
    while hasattr(command, "commands"):
        name, command, arguments = command.resolve_command(context, arguments)
        assert name, f"align {' '.join(arguments)}: is no command"
        names.append(name)
    return " ".join(names), command.make_context(name, list(arguments), parent=context).params


def made(line: str) -> list[list[str]]:
    """The arguments of each `align` that a line of make would run; fails on a goal that there is not."""
    known = set(re.findall(r"\$\((\w+)\)|ifneq? \(\$\((\w+)", (PROJECT / "Makefile").read_text("utf-8")))
    known = {name for pair in known for name in pair}
    variables = re.findall(r"\b([A-Z_]+)=", line)
    assert set(variables) <= known, f"{line}: the Makefile reads no {set(variables) - known}"
    shell = {key: value for key, value in os.environ.items() if key not in ("MAKELEVEL", "MAKEFLAGS", "MFLAGS")}
    dry = subprocess.run([*shlex.split(line), "-n"], cwd=PROJECT, capture_output=True, text=True, env=shell)
    assert dry.returncode == 0, f"{line}: {dry.stderr}"
    whole = dry.stdout.replace("\\\n", " ")
    said = [one for one in whole.splitlines() if one.startswith(".venv/bin/align ")]
    return [shlex.split(one)[1:] for one in said]


def asked(line: str) -> list[tuple[str, dict]]:
    """What a line asks of `align`: each command with its parameters."""
    line = line.partition(" #")[0].partition(" < ")[0].strip()
    calls = made(line) if line.startswith("make ") else [shlex.split(line)[1:]]
    return [parse(call) for call in calls]
