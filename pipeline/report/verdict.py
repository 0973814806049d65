"""What is said of a stage in one sentence, and of a chain: what it learned, what it lost, and whether that is more than chance."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.console.figures import BASELINES, BEATEN_BY, FEW_ROWS, SAME_AS, name_of, number
from pipeline.report.change import BETTER, CHANCE, EQUAL, FEW, TOLD, UNKNOWN, WORSE, Change
from pipeline.wording import listed

LEARNED, LOST, BOTH, NOTHING, OPEN, WAITING = "learned", "lost", "both", "nothing", "open", "waiting"
RUNS, SHORT = "runs", "short"
MARKS = {
    LEARNED: ("▲", "learned"),
    LOST: ("▼", "lost"),
    BOTH: ("◆", "learned and lost"),
    NOTHING: ("≈", "no more than chance"),
    OPEN: ("?", "not known"),
    WAITING: ("○", "not trained"),
    RUNS: ("▶", "running"),
    SHORT: ("✗", "falls short"),
}
_MANY = 3  # figures named in a sentence


NONE_HELD_OUT = "No rows were held out"


@dataclass(frozen=True)
class Verdict:
    """`mark` is a key of MARKS; `learned`, `lost` and `besides` are sentences, or empty."""

    mark: str
    learned: str
    lost: str = ""
    besides: str = ""

    @property
    def sign(self) -> str:
        return MARKS[self.mark][0]

    @property
    def word(self) -> str:
        return MARKS[self.mark][1]


def of_stage(found: Sequence[Change], metrics: dict, why_none: str = NONE_HELD_OUT) -> Verdict:
    """`metrics` are those after the stage; `why_none` says why there are none, where there are none."""
    judged = [
        change
        for change in found
        if change.verdict != TOLD and (change.verdict != FEW if change.on else change.name not in SAME_AS)
    ]
    by = {
        verdict: [one for one in judged if one.verdict == verdict]
        for verdict in (BETTER, WORSE, CHANCE, EQUAL, FEW, UNKNOWN)
    }
    if not judged:
        return Verdict(OPEN, f"{why_none}, so nothing is known of what was learned.")
    if by[FEW]:
        rows = max(one.rows for one in by[FEW])
        told = f"{_all(by[FEW])}, but only {rows} held-out rows were measured: below {FEW_ROWS} chance alone moves such figures."
        return Verdict(OPEN, sentence(told))
    beaten = _beaten(metrics)
    level = by[CHANCE] + by[EQUAL]
    lost = f"{_all(by[WORSE])}, more than chance explains." if by[WORSE] else ""
    besides = " ".join(beaten)
    if by[UNKNOWN]:
        chance = f"Whether it is chance that {_all(by[UNKNOWN])} is not known."
        besides = f"{besides} {chance}".strip()
    if by[BETTER]:
        learned = f"{_all(by[BETTER])}, more than chance explains."
        if not lost and not any(one.fell_back for one in by[UNKNOWN]):
            same = f" ({_level(level, ', no more than chance')})" if level else ""
            besides = f"Nothing that was measured got worse{same}. {besides}".strip()
        return Verdict(BOTH if lost else LEARNED, sentence(learned), sentence(lost), besides)
    if lost:
        return Verdict(LOST, "Nothing that was measured got better.", sentence(lost), besides)
    if not level:
        return Verdict(OPEN, besides)
    return Verdict(NOTHING, f"No more than chance: {_level(level)}.", "", besides)


def falling_short(found: Verdict, lost: Sequence[str]) -> Verdict:
    """The verdict on a stage that has lost what the recipe says it must keep."""
    return replace(found, mark=SHORT, lost=f"Falls short of must_keep: {'; '.join(lost)}. {found.lost}".strip())


def of_chain(judged: Sequence[tuple[str, Verdict]], open_stages: Sequence[str]) -> tuple[str, str]:
    """(one of MARKS, the sentence on top of the page), of the stages that are trained and of those that are not yet."""
    named = {mark: [stage for stage, verdict in judged if verdict.mark == mark] for mark in MARKS}
    waits = (
        f" {listed(open_stages)} {'is' if len(open_stages) == 1 else 'are'} not trained as the recipe stands."
        if open_stages
        else ""
    )
    if short := named[SHORT]:
        fall = "falls" if len(short) == 1 else "fall"
        return SHORT, f"Do not keep it: {listed(short)} {fall} short of what must be kept.{waits}"
    lost = named[LOST] + named[BOTH]
    if not judged:
        return WAITING, "Nothing is trained as the recipe stands, so there is nothing to judge."
    if lost:
        return (BOTH if named[LEARNED] or named[BOTH] else LOST), (
            f"Look before you keep it: {listed(lost)} lost something that was measured, more than chance explains.{waits}"
        )
    if named[OPEN]:
        rest = " The rest learned more than chance explains." if named[LEARNED] and not named[NOTHING] else ""
        return OPEN, f"Not to be told yet: what {listed(named[OPEN])} learned is not known.{rest}{waits}"
    if named[NOTHING]:
        return NOTHING, (
            f"Nothing speaks for keeping {listed(named[NOTHING])}: what it learned is no more than chance; nothing that was "
            f"measured got worse.{waits}"
        )
    who = "the stage" if len(judged) == 1 else f"all {len(judged)} stages"
    return LEARNED, (
        f"What was measured speaks for it: {who} learned more than chance explains, and nothing that was "
        f"measured got worse.{waits}"
    )


def _beaten(metrics: dict) -> list[str]:
    """What needs no trained model and does as well."""
    return [
        f"{sentence(BASELINES[name])} does as well ({number(metrics[name])}) as the model's {name_of(figure)}."
        for name, figures in BEATEN_BY.items()
        for figure in figures
        if metrics.get(name) is not None and metrics.get(figure) is not None and metrics[name] >= metrics[figure]
    ]


def _all(found: Sequence[Change]) -> str:
    return listed(one.said for one in found[:_MANY]) + (f" and {len(found) - _MANY} more" if len(found) > _MANY else "")


def _level(found: Sequence[Change], told: str = "") -> str:
    return listed(
        f"{one.label} stayed at {number(one.after)}" if one.verdict == EQUAL else one.said + told for one in found
    )


def sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
