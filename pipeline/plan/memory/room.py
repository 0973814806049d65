"""What a card has room for beyond what a stage needs: activations that are kept instead of computed a second time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.plan.memory.card import TIGHT, Card
from pipeline.plan.memory.fit import Changes
from pipeline.plan.memory.need import Need
from pipeline.plan.memory.reckoned import Reckoned, needed
from pipeline.plan.memory.setting import smaller

KEY = "gradient_checkpointing"


@dataclass(frozen=True)
class Room:
    """A change that makes a stage faster, and what it then needs."""

    stage: str
    changes: Changes
    need: Need
    saves: float  # the share of a training step's products that is no longer computed

    def to_json(self) -> dict:
        keys = {".".join(path): value for path, value in self.changes.items()}
        return {"changes": keys, "bytes": self.need.bytes, "saves": round(self.saves, 3)}


def rooms(found: Sequence[Reckoned], card: Card, margin: float | None) -> Iterator[Room]:
    """Of the stages that fit with as much to spare."""
    for one in found:
        if one.need is None or one.setting is None or not one.setting.checkpointing:
            continue
        need = needed(smaller(one.setting, **{KEY: False}), margin, known=one.need.tokens["of"] == "rows")
        if need.bytes <= (1 - TIGHT) * card.bytes:
            # Forwards once again, beside forwards and backwards; of a frozen base the backward pass is one product, not two.
            saves = 1 / 4 if one.setting.tuned.whole else 1 / 3
            yield Room(one.stage, {("stages", one.stage, "train", KEY): False}, need, saves)
