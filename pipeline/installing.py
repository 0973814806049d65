"""How this align is called, and how a package is added to it: otherwise in a clone than where a wheel was installed."""

import os
import re
import shutil
import sys
from importlib import metadata
from pathlib import Path

_CLONE = Path(__file__).resolve().parents[1]
# `align COMMAND` where a message tells what to type: in backticks or brackets, behind a colon, or at a line's beginning.
_HINT = re.compile(
    r"((?:^|[`(:]) *)align(?= (?:--help|run|plan|status|report|diff|tensorboard|compare|gc|methods|evaluate|chat|serve|"
    r"merge|export|publish|verify|init|doctor|recipes|recipe|data)\b)",
    re.MULTILINE,
)
_HUB_HINT = re.compile(r"`hf(?= (?:auth|download|upload)\b)")


def command(name: str = "align") -> str:
    """What to type for this align, or a program beside it: `align` where the shell finds it, else such as .venv/bin/align."""
    beside, found = Path(sys.executable).parent / name, shutil.which(name)
    if not beside.is_file() or (found and os.path.samefile(found, beside)):
        return name
    here = Path.cwd()
    return str(beside.relative_to(here) if beside.is_relative_to(here) else beside)


def as_typed(text: str) -> str:
    """A message in which each `align ...`, and each `hf ...` of the hub's own program, is what can be typed here."""
    return _HUB_HINT.sub(lambda _: f"`{command('hf')}", _HINT.sub(lambda found: found[1] + command(), text))


def in_clone() -> bool:
    return (_CLONE / "constraints.txt").is_file() and (_CLONE / "pyproject.toml").is_file()


def requirements(extra: str = "") -> list:
    """What the installed align needs here for an extra, or without one, as packaging's Requirement: name, specifier."""
    from packaging.requirements import Requirement

    try:
        every = [Requirement(one) for one in metadata.requires("align-pipeline") or []]
    except metadata.PackageNotFoundError:
        return []
    if not extra:
        return [one for one in every if not one.marker or one.marker.evaluate({"extra": ""})]
    of_extra = [one for one in every if f'extra == "{extra}"' in str(one.marker)]
    return [one for one in of_extra if one.marker and one.marker.evaluate({"extra": extra})]


def extra(name: str) -> str:
    """The command that installs an extra of this project, at its pinned versions."""
    packages = [] if in_clone() else requirements(name)
    if not packages:
        return f"{_python()} -m pip install -c {_here('constraints.txt')} -e {_here('.')}[{name}]"
    return package(*(f"{one.name}{one.specifier}" for one in packages))


def goal(name: str) -> str:
    """The same by make, which has a goal of its name, where this is a clone."""
    return f"make {name}" if in_clone() else extra(name)


def package(*names: str) -> str:
    """The command that installs packages beside this align."""
    pip = f"{_python()} -m pip install" if in_clone() else _pip()
    return f"{pip} {' '.join(names)}"


def _python() -> str:
    return _here(".venv/bin/python")


def _here(name: str) -> str:
    """A path of the clone as it can be typed where one is."""
    return name if Path.cwd() == _CLONE else str(_CLONE / name)


def _pip() -> str:
    """An environment that uv made, for a tool or by hand, has no pip of its own."""
    made_by = Path(sys.prefix, "pyvenv.cfg")
    by_uv = made_by.is_file() and re.search(r"^uv\b", made_by.read_text(encoding="utf-8"), re.MULTILINE)
    return f"uv pip install --python {sys.prefix}" if by_uv else "pip install"
