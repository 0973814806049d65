"""The attention that a recipe names, and whether this machine has it. Light: the plan asks it too."""

from importlib.util import find_spec

from pipeline.errors import PipelineError

# The modules of those that come in packages of their own. transformers also takes any of them from `kernels`.
PACKAGES = {
    "flash_attention_2": "flash_attn",
    "flash_attention_3": "flash_attn_interface",
    "flash_attention_4": "flash_attn",
}


def obstacle(name: str | None, *, gpu: bool) -> tuple[str, str] | None:
    """(why it cannot run here, what to do), or None."""
    hub = "/" in (name or "")
    if name not in PACKAGES and not hub:
        return None
    left_out = "Leave it out: transformers then takes one that runs here."
    if not gpu:
        return f"{name} needs a GPU, and there is none here", left_out
    packages = ["kernels"] if hub else [PACKAGES[name], "kernels"]
    if any(find_spec(package) for package in packages):
        return None
    wanted = " or ".join(packages)
    return f"{name} needs the package {wanted}, which is not installed", f"Install it into .venv. {left_out}"


def check(name: str | None, device: str) -> None:
    """Raises PipelineError where it cannot run on the device of a stage."""
    if found := obstacle(name, gpu=device == "cuda"):
        raise PipelineError(f"model.attn_implementation: {found[0]}.", found[1])
