"""What a trial found: of each contestant its figures with their intervals, its cost, and who won, as JSON values."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from pipeline.artifact.attempt import Attempt
from pipeline.run.contestants import Contestant

# What decides, the first that there is; both are shown.
FIGURES = ("win_rate", "accuracy", "exact_match")
WORDS = {"win_rate": "win rate", "accuracy": "accuracy", "exact_match": "exact match"}
APART = 0.05  # of the tokens: methods that trained on so many more or fewer are named


@dataclass(frozen=True)
class Outcome:
    """What became of a contestant: for each seed a finished attempt with its figures, or why there is none."""

    contestant: Contestant
    attempts: tuple[Attempt, ...] = ()
    figures: tuple[dict, ...] = ()  # see pipeline.evaluate.figures
    failed: str | None = None


def result(outcomes: Sequence[Outcome], start: dict, tokens: int) -> dict:
    """`start` are the figures of what all of them start from, `tokens` how many each was to be trained on."""
    done = [one for one in outcomes if not one.failed]
    found = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "tokens": tokens,
        "start": start.get("metrics", {}),
        "contestants": {one.contestant.name: _of(one) for one in outcomes},
        "figures": [
            name for name in FIGURES if done and all(name in run["each"] for one in done for run in one.figures)
        ],
    }
    for name in found["figures"]:
        _compare(name, {one.contestant.name: [run["each"][name] for run in one.figures] for one in done}, found)
    if done:
        ran = done[0].attempts[0].manifest["run"]
        found |= {"on_gpu": ran["device"] == "cuda", "device": ran.get("gpu", ran["device"]), "threads": ran["threads"]}
    return found | {"verdict": verdict(found)}


def _of(one: Outcome) -> dict:
    said = {"stage": one.contestant.stage, "recipe": str(one.contestant.recipe), "set": list(one.contestant.overrides)}
    if one.failed:
        return said | {"failed": one.failed}
    made = [attempt.manifest for attempt in one.attempts]
    seconds = [manifest["seconds"]["training"] for manifest in made]
    gpu = [peak for manifest in made if (peak := manifest["peak_bytes"].get("gpu"))]
    return said | {
        "tokens": round(mean(manifest["tokens"] for manifest in made)),
        "steps": made[0]["steps"],
        "seconds": {"mean": mean(seconds), "min": min(seconds), "max": max(seconds)},
        "host_bytes": max(manifest["peak_bytes"]["host"] for manifest in made),
        "gpu_bytes": max(gpu, default=None),
        "runs": [
            {"seed": manifest["inputs"]["seed"], "folder": str(attempt.folder), "metrics": run["metrics"]}
            for attempt, manifest, run in zip(one.attempts, made, one.figures, strict=True)
        ],
    }


def _compare(name: str, numbers: Mapping[str, Sequence[Sequence[float]]], found: dict) -> None:
    """Put the interval of a figure beside each contestant; of the first figure, who is ahead of whom, and how surely."""
    from pipeline.evaluate.intervals import interval, means  # numpy: only now that there is something to reckon

    drawn = means(numbers)
    values = {one: mean(mean(rows) for rows in seeds) for one, seeds in numbers.items()}
    for one, value in values.items():
        by_seed = [mean(rows) for rows in numbers[one]]
        found["contestants"][one][name] = interval(value, drawn[one]).to_json() | {"by_seed": by_seed}
    found["rows"] = found.get("rows", {}) | {name: len(next(iter(numbers.values()))[0])}
    if name == found["figures"][0] and len(values) > 1:
        first, second = sorted(values, key=lambda one: -values[one])[:2]
        ahead = interval(values[first] - values[second], drawn[first] - drawn[second])
        found["ahead"] = {"figure": name, "first": first, "second": second, "by": ahead.to_json()}


def verdict(found: dict) -> str:
    """The answer in one sentence."""
    failed = [name for name, one in found["contestants"].items() if "failed" in one]
    out = f"; failed: {', '.join(failed)}" if failed else ""
    if "ahead" not in found:
        finished = [name for name in found["contestants"] if name not in failed]
        return f"Nobody won: {', '.join(finished) or 'none'} alone finished{out}"
    ahead, by = found["ahead"], found["ahead"]["by"]
    figure, name = WORDS[ahead["figure"]], ahead["first"]
    if not by["value"]:
        same = found["contestants"][name][ahead["figure"]]["value"]
        return f"Nobody is ahead: {name} and {ahead['second']} both have {figure} {same:.3f}{_not_equal(found)}{out}"
    first, second = (found["contestants"][ahead[place]] for place in ("first", "second"))
    overlap = second[ahead["figure"]]["high"] >= first[ahead["figure"]]["low"]
    told = "the intervals overlap" if overlap else "the intervals do not overlap"
    if by["low"] <= 0:
        told += ", and chance could have turned it round"
    elif overlap:
        told += ", but on the same rows the difference is above 0"
    said = (
        f"{name} has the highest {figure}, {first[ahead['figure']]['value']:.3f}, {by['value']:.3f} above "
        f"{ahead['second']} (95% of the difference: {by['low']:+.3f} to {by['high']:+.3f}); {told}"
    )
    if ahead["figure"] != "exact_match" and "exact_match" in first and "exact_match" in found["start"]:
        said += f"; its exact match is {first['exact_match']['value']:.3f}, {found['start']['exact_match']:.3f} at the start"
    return said + _not_equal(found) + out


def _not_equal(found: dict) -> str:
    """Those that could not be given the same number of tokens, in whole steps."""
    wanted = found["tokens"]
    tokens = {name: one["tokens"] for name, one in found["contestants"].items() if "failed" not in one}
    apart = [f"{name} {number:,}" for name, number in tokens.items() if abs(number - wanted) > APART * wanted]
    if not apart:
        return ""
    least, most = min(tokens.values()), max(tokens.values())
    if most - least > APART * wanted:
        return f"; NOT the same number of tokens, {wanted:,}: {', '.join(apart)}"
    each = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    return f"; in whole steps they trained on {each} tokens each, not on {wanted:,}"
