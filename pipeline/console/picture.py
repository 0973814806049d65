"""The picture of a comparison."""

from importlib.util import find_spec
from pathlib import Path

from pipeline.model.backend import TRANSFORMERS, UNSLOTH

BELOW = (
    "{recipe} {stage}: {device}, {dtype}, quantization {quantization}, max_length {max_length}, batch {batch}, "
    "rank {rank}; {repeats} trials each, in turn"
)
COLORS = {TRANSFORMERS: "#4c6a92", UNSLOTH: "#d1682b"}


def is_possible() -> bool:
    """Whether the library that draws is installed."""
    return find_spec("matplotlib") is not None


def draw(result: dict, file: Path) -> None:
    """Both losses, their difference step by step, and the speed of each step; the verdict is the title."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (loss, apart, speed) = pyplot.subplots(3, 1, figsize=(9, 9.5), height_ratios=(3, 1.6, 2), sharex=True)
    first = {name: trials[0] for name, trials in result["trials"].items()}
    steps = range(1, result["steps"] + 1)
    for name, style in ((TRANSFORMERS, "-"), (UNSLOTH, "--")):
        loss.plot(steps, first[name]["losses"], style, color=COLORS[name], label=name, linewidth=2)
    loss.set_ylabel("training loss")
    loss.legend(frameon=False)
    tolerance = result["loss"]["tolerance"]
    pairs = zip(first[TRANSFORMERS]["losses"], first[UNSLOTH]["losses"], strict=True)
    differences = [max(abs(a - b), 1e-9) for a, b in pairs]
    apart.semilogy(steps, differences, color="#555555", marker=".", label="difference of the losses")
    apart.axhline(tolerance, color="#b22222", linestyle=":", label=f"what rounding explains ({tolerance:.0e})")
    beyond = [(step, value) for step, value in zip(steps, differences, strict=True) if value > tolerance]
    if beyond:
        apart.plot(*zip(*beyond, strict=True), "o", color="#b22222", label=f"beyond it, first at step {beyond[0][0]}")
    apart.set_ylabel("|difference|")
    apart.legend(frameon=False, fontsize="small")
    for name, trials in result["trials"].items():
        for number, trial in enumerate(trials):
            rates = [t / max(s, 1e-9) for t, s in zip(trial["step_tokens"], trial["step_seconds"], strict=True)]
            label = name if number == 0 else None
            speed.plot(steps, rates, color=COLORS[name], alpha=0.8, linewidth=1.2, label=label)
    warm_up = result["backends"][UNSLOTH]["warm_up_steps"]
    speed.axvspan(0.5, warm_up + 0.5, color="#eeeeee", label="warm-up, not counted")
    speed.set_ylabel("tokens per second")
    speed.set_ylim(bottom=0)
    speed.set_xlabel("optimizer step")
    speed.legend(frameon=False, fontsize="small")
    below = BELOW.format(**result["what_ran"], **{key: result[key] for key in ("recipe", "stage", "repeats")})
    figure.suptitle(wrapped(result["verdict"]), fontsize=12, fontweight="bold")
    figure.text(0.5, 0.005, below, ha="center", fontsize=8, color="#555555")
    for axes in (loss, apart, speed):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout(rect=(0, 0.02, 1, 0.98))
    figure.savefig(file, dpi=120)


def wrapped(text: str, width: int = 88) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width))
