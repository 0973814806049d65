"""The needs of all stages of a plan, and whether each fits a card."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.plan.memory.card import Card
from pipeline.plan.memory.need import Need
from pipeline.plan.memory.settings import setting_of
from pipeline.plan.memory.shape import UnknownShape
from pipeline.plan.memory.stage_need import Setting, need_of
from pipeline.plan.planner import Planner
from pipeline.plan.step import Step


@dataclass(frozen=True)
class Reckoned:
    """What a stage needs, or why that is not known here."""

    stage: str
    need: Need | None
    why_not: str = ""
    setting: Setting | None = None

    def left(self, card: Card) -> int | None:
        """Bytes of the card that are left, below 0 where it does not fit."""
        return card.bytes - self.need.bytes if self.need else None

    def to_json(self, card: Card | None) -> dict:
        if self.need is None:
            return {"memory": None, "memory_why_not": self.why_not}
        said = self.need.to_json()
        if card:
            said |= {"card": card.name, "card_bytes": card.bytes, "fits": self.left(card) >= 0, "left": self.left(card)}
        return {"memory": said}


def reckon(planner: Planner, steps: Sequence[Step]) -> list[Reckoned]:
    """What each stage needs on a GPU."""
    return [_of(planner, step, {}) for step in steps]


def _of(planner: Planner, step: Step, lengths: Mapping[str, int]) -> Reckoned:
    try:
        setting = setting_of(planner.recipe, step, step.base or planner.parents.named_base(), lengths)
        tokens = {"rows": setting.step.rows, "length": setting.step.length, "of": "max_length"}
        return Reckoned(step.stage, need_of(setting, tokens=tokens), setting=setting)
    except UnknownShape as error:
        return Reckoned(step.stage, None, f"{error}")
