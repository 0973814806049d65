"""The needs of all stages of a plan, and whether each fits a card."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.plan import processes
from pipeline.plan.memory import lengths
from pipeline.plan.memory.card import Card
from pipeline.plan.memory.earlier_runs import EarlierRuns
from pipeline.plan.memory.held import ALONE, Held, held_by
from pipeline.plan.memory.need import Need
from pipeline.plan.memory.of_recipe import setting_of
from pipeline.plan.memory.setting import Setting
from pipeline.plan.memory.shape import UnknownShape
from pipeline.plan.memory.stage_need import need_of
from pipeline.plan.planner import Planner
from pipeline.plan.step import CONTINUE, RUN, Step


@dataclass(frozen=True)
class Reckoned:
    """What a stage needs, or why that is not known here."""

    stage: str
    need: Need | None
    why_not: str = ""
    setting: Setting | None = None
    seconds: float | None = None  # about how long it will train here; None: no earlier run tells
    in_parts: bool = False  # whether each of several processes could hold a part of its model

    def left(self, card: Card) -> int | None:
        """Bytes of the card that are left, below 0 where it does not fit."""
        return card.bytes - self.need.bytes if self.need else None

    def to_json(self, card: Card | None) -> dict:
        time = {"about_seconds": None if self.seconds is None else round(self.seconds)}
        if self.need is None:
            return {"memory": None, "memory_why_not": self.why_not} | time
        said = self.need.to_json()
        if self.setting and (held := self.setting.held).processes > 1:
            said |= {"processes": held.processes, "strategy": held.strategy}
        if card:
            left = card.bytes - self.need.bytes
            said |= {"card": card.name, "card_bytes": card.bytes, "fits": left >= 0, "left": left}
        return {"memory": said} | time


def reckon(planner: Planner, steps: Sequence[Step]) -> list[Reckoned]:
    """What each stage needs on a GPU, and about how long it will take on this machine, as far as earlier runs tell."""
    earlier = EarlierRuns(planner.runs)
    margin = earlier.margin()
    return [replace(reckon_one(planner, step, margin), seconds=earlier.seconds(planner, step)) for step in steps]


def reckon_one(planner: Planner, step: Step, margin: float | None = None, held: Held | None = None) -> Reckoned:
    """What a stage needs on a GPU; on that of each process, where there are several: those of the recipe, or `held`."""
    recipe, rows = planner.recipe, lengths.known(planner, step.stage)
    try:
        setting = setting_of(recipe, step, step.base or planner.parents.named_base(), rows)
    except UnknownShape as error:
        return Reckoned(step.stage, None, f"{error}")
    setting = replace(setting, held=held or held_by(recipe.launch))
    if step.state not in (RUN, CONTINUE) and not setting.can_be_dealt_out:
        setting = replace(setting, held=ALONE)  # it was trained by another number, and is not trained now
    need = needed(setting, margin, known=bool(rows))
    return Reckoned(step.stage, need, setting=setting, in_parts=processes.whole(recipe, step, "fsdp") is None)


def needed(setting: Setting, margin: float | None, *, known: bool) -> Need:
    """`known`: whether the setting's lengths are those of rows."""
    one = setting.step
    of = "rows" if known else "limits"
    return need_of(setting, margin, rows=one.rows, length=one.length, prompt=setting.prompt, of=of)
