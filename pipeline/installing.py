"""How a package is added to this align: another command in a clone than where a wheel was installed."""

from importlib import metadata
from pathlib import Path

_CLONE = Path(__file__).resolve().parents[1]


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
        return f".venv/bin/python -m pip install -c constraints.txt -e .[{name}]"
    return package(*(f"{one.name}{one.specifier}" for one in packages))


def package(*names: str) -> str:
    return f"{'.venv/bin/python -m ' if in_clone() else ''}pip install {' '.join(names)}"
