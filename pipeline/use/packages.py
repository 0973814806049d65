"""The packages that only some formats need, each an extra of the project."""

from importlib.util import find_spec

from pipeline import installing
from pipeline.errors import PipelineError


def installed(module: str) -> bool:
    return find_spec(module) is not None


def require(module: str, extra: str, what: str) -> None:
    """Raises PipelineError with the command that installs it."""
    if not installed(module):
        raise PipelineError(f"{what} needs the package {module}, which is not installed.", f"{command(extra)}.")


def command(extra: str) -> str:
    return f"Install it: {installing.extra(extra)} (`make export FORMAT={extra}` does so)"
