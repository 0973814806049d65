"""How a package is added to this align: another command in a clone than where a wheel was installed."""

from pathlib import Path

_CLONE = Path(__file__).resolve().parents[1]


def in_clone() -> bool:
    return (_CLONE / "constraints.txt").is_file() and (_CLONE / "pyproject.toml").is_file()


def extra(name: str) -> str:
    """The command that installs an extra of this project, with what it needs pinned."""
    if in_clone():
        return f".venv/bin/python -m pip install -c constraints.txt -e .[{name}]"
    return f"pip install 'align-pipeline[{name}]'"


def package(name: str) -> str:
    return f"{'.venv/bin/python -m ' if in_clone() else ''}pip install {name}"
