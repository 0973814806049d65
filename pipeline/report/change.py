"""A figure before and after, and whether the difference is more than chance."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from pipeline.console.figures import (
    BASELINES,
    FEW_ROWS,
    LOWER_IS_BETTER,
    MEANING,
    OF_A_ROLLOUT,
    OWN_COLUMN,
    SAME_AS,
    ability,
    name_of,
    number,
    reads_alike,
    told_apart,
)
from pipeline.evaluate.shares import EVEN, newcombe, wilson

NOT_KEPT = "the rows' own numbers were not kept"
SHARES = {
    "judged_win_rate",
    "win_rate_over_reference",
    "exact_match",
    "accuracy",
    "no_label",
    "preference_accuracy",
    "reward_accuracy",
    "win_rate",
}
# The first of these that a stage has is what it is judged by at a glance.
FIRST = "mean_reward reward_accuracy judged_win_rate win_rate_over_reference win_rate preference_accuracy mean_score accuracy exact_match chrf rouge_l bleu loss".split()

BETTER, WORSE, CHANCE, EQUAL, FEW, UNKNOWN, TOLD = "better", "worse", "chance", "equal", "few", "unknown", "told"
WORDS = {
    BETTER: "better",
    WORSE: "worse",
    CHANCE: "no more than chance",
    EQUAL: "unchanged",
    FEW: "too few rows to tell",
    UNKNOWN: "chance not known",
    TOLD: "",
}
SIGNS = {BETTER: "▲", WORSE: "▼", CHANCE: "≈", EQUAL: "=", FEW: "?", UNKNOWN: "?", TOLD: ""}


@dataclass(frozen=True)
class Change:
    """`low` and `high` are where 95% of the difference lies, None where it is not known; `how` is how that was found."""

    name: str
    before: float | None
    after: float | None
    rows: int
    verdict: str = TOLD
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    how: str = ""
    of_rows: bool = True  # whether a share is one of rows
    tool: str = ""  # and options that it is measured by
    on: str = ""  # the earlier stage whose rows were asked

    @property
    def label(self) -> str:
        label = OF_A_ROLLOUT.get(self.name, name_of(self.name))
        return f"{label} on the rows of {self.on}" if self.on else label

    @property
    def meaning(self) -> str:
        said = MEANING.get(self.name, "mean of this reward alone" if self.name.startswith("reward_") else "")
        return f"{said} ({self.tool})" if self.tool else said

    @property
    def word(self) -> str:
        return "in the last rollout" if self.name in OF_A_ROLLOUT else WORDS[self.verdict]

    @property
    def sign(self) -> str:
        return SIGNS[self.verdict]

    @property
    def fell_back(self) -> bool:
        """Whether the value is a worse one, be it by chance or not."""
        return bool(self.difference) and (self.difference > 0) == (self.name in LOWER_IS_BETTER)

    @property
    def is_share(self) -> bool:
        return self.name in SHARES

    @property
    def moved(self) -> bool:
        """Whether more than chance explains."""
        return self.verdict in (BETTER, WORSE)

    def interval(self, when: str) -> tuple[float, float] | None:
        """Wilson's, of the share before or after."""
        value = self.before if when == "before" else self.after
        known = self.is_share and self.of_rows and value is not None and self.rows and 0 <= value <= 1
        return wilson(value, self.rows) if known else None

    @property
    def said(self) -> str:
        """In a sentence: exact match rose from 0.000 to 0.960."""
        if self.name in EVEN:
            return f"{self.label} {number(self.after)} ({EVEN[self.name]} would be even)"
        if self.verdict == EQUAL:
            return f"{self.label} {number(self.after)} as before"
        if self.difference is None:
            return f"{self.label} went from {number(self.before)} to {number(self.after)}"
        if reads_alike(self.before, self.after) and not self.moved:
            return f"{self.label} stayed at {number(self.after)}"
        verb, (was, now) = "rose" if self.after > self.before else "fell", told_apart(self.before, self.after)
        return f"{self.label} {verb} from {was} to {now}"


def changes(
    before: Mapping, after: Mapping, differences: Mapping | None, even: Mapping[str, float] = EVEN
) -> Iterator[Change]:
    """Of every figure of the model. `before` and `after` are figures with what is kept of `each` row.

    `differences` are the manifest's, by a paired bootstrap; without one a share's is reckoned from its value alone.
    Figures in `even` are held against that value and not against what they were before.
    """
    was, now = before["metrics"], after["metrics"]
    for name in dict.fromkeys([*now, *was]):
        if name not in OWN_COLUMN and name not in BASELINES:
            known = (differences or {}).get(SAME_AS.get(name, name))
            yield replace(_change(name, before, after, known, even), tool=after.get("how", {}).get(name, ""))


def of_earlier(manifest: Mapping) -> Iterator[Change]:
    """Of what each earlier stage taught, the figure that says it best: before this stage, and after."""
    for stage, said in manifest.get("earlier", {}).items():
        if name := ability(said["after"]):
            before, after = ({"metrics": said[when], "each": {}} for when in ("before", "after"))
            known = said["differences"].get(SAME_AS.get(name, name))
            yield replace(_change(name, before, after, known, EVEN), on=stage)


def _change(name: str, before: Mapping, after: Mapping, known: Mapping | None, even: Mapping[str, float]) -> Change:
    was, now = before["metrics"].get(name), after["metrics"].get(name)
    of_rows = name != "preference_accuracy" or "n_wanted" not in before["metrics"] | after["metrics"]
    rows = (
        len(after["each"].get(name) or after.get("parts", {}).get(name) or ())
        or after["metrics"].get("n")
        or before["metrics"].get("n")
        or 0
    )
    if name in OF_A_ROLLOUT:
        return Change(name, was, now, 0)
    compared = even.get(name, was)
    if not (_finite(compared) and _finite(now)):
        verdict = UNKNOWN if was is not None and now is not None else TOLD
        return Change(name, was, now, rows, verdict, of_rows=of_rows)
    low = high = None
    how = NOT_KEPT if of_rows else "a share of pairs of rows, for which no interval is reckoned"
    difference = now - compared
    if known:
        low, high, how = known["low"], known["high"], "paired bootstrap over the rows"
    elif name in SHARES and rows and of_rows:
        low, high = (
            [bound - even[name] for bound in wilson(now, rows)] if name in even else newcombe(compared, rows, now, rows)
        )
        how = f"from the shares alone: {NOT_KEPT}"
    verdict = judged(difference, low, high, rows, name in LOWER_IS_BETTER)
    if name in SAME_AS:
        low = high = None
        how = f"says the same as the {SAME_AS[name]}"
    return Change(name, was, now, rows, verdict, difference, low, high, how, of_rows)


def judged(difference: float, low: float | None, high: float | None, rows: int, lower: bool) -> str:
    """The verdict on a difference, 95% of which lies from `low` to `high`; `lower` says whether lower is better."""
    if not difference:
        return EQUAL
    if rows < FEW_ROWS:
        return FEW
    if low is None:
        return UNKNOWN
    if low <= 0 <= high:
        return CHANCE
    return BETTER if (difference < 0) == lower else WORSE


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def first(found: list[Change]) -> Change | None:
    """What a stage is judged by at a glance."""
    by_name = {change.name: change for change in found}
    return next((by_name[name] for name in FIRST if name in by_name), found[0] if found else None)
