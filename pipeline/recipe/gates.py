"""What a stage must keep to be taken further: `must_keep: {exact_match: -0.02, perplexity: 1.05}`.

Each figure is held against what it was before the stage, on the stage's own held-out rows and on those of every earlier
stage that has it. Read off the manifest, so that another limit measures nothing again.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import BeforeValidator

from pipeline.wording import did_you_mean

LOWER_IS_BETTER = {"loss", "perplexity", "kl", "no_label"}
FACTORS = {"loss", "perplexity"}  # their limit is the factor that they may grow by
DIFFERENCES = {
    *("exact_match", "preference_accuracy", "reward_accuracy", "mean_score", "mean_reward"),
    *("accuracy", "macro_f1", "chrf", "bleu", "rouge_l"),
}


def _limits(said: object) -> dict[str, float]:
    if not isinstance(said, Mapping):
        raise ValueError("has to be figures with their limits, like {exact_match: -0.02, perplexity: 1.05}")
    for name, limit in said.items():
        if name not in FACTORS | DIFFERENCES:
            names = sorted(FACTORS | DIFFERENCES)
            raise ValueError(
                f"{name} is no figure to be kept{did_you_mean(str(name), names)}; there are {', '.join(names)}"
            )
        if isinstance(limit, bool) or not isinstance(limit, int | float):
            raise ValueError(f"{name}: {limit!r} is no number")
        if name in FACTORS and not limit >= 1:
            raise ValueError(f"{name}: {limit} is the factor that it may grow by: 1 or more")
        if name not in FACTORS and not -1e9 < limit <= 0:
            raise ValueError(f"{name}: {limit} is how much it may fall by, like -0.02")
    return {str(name): float(limit) for name, limit in said.items()}


MustKeep = Annotated[dict[str, float], BeforeValidator(_limits)]


def shortfalls(must_keep: Mapping[str, float], manifest: Mapping) -> list[str]:
    """What a finished stage has lost beyond its limits, a sentence each; a figure that nobody measured is lost, too."""
    found = []
    for name, limit in must_keep.items():
        measured = [(of, was[name], now[name]) for of, was, now in _measured(manifest) if name in was and name in now]
        if not measured:
            found.append(f"{name} was not measured, and must_keep names it")
        for of, was, now in measured:
            least = was * limit if name in FACTORS else was + limit
            # A figure that is no number has not been kept.
            kept = now <= least if name in FACTORS else now >= least
            if not kept:
                allowed = f"{least:.4g} at most" if name in FACTORS else f"{least:.4g} at least"
                found.append(
                    f"{name}{of} was {was:.4g} and is {now:.4g}; must_keep: {name}: {limit:g} asks for {allowed}"
                )
    return found


def _measured(manifest: Mapping) -> Iterator[tuple[str, dict, dict]]:
    yield "", manifest["metrics"]["before"], manifest["metrics"]["after"]
    for stage, said in manifest.get("earlier", {}).items():
        yield f" on the rows of {stage}", said["before"], said["after"]
