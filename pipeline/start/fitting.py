"""A draft held against a card by the plan, and made smaller until it fits."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.plan.memory.card import GIB, TIGHT, Card
from pipeline.plan.memory.fit import fitted
from pipeline.plan.memory.reckoned import reckon
from pipeline.plan.planner import Planner
from pipeline.recipe.recipe import Recipe
from pipeline.start.new import Draft


def fit(draft: Draft, recipe: Recipe, card: Card) -> Sequence[str]:
    """Put what the plan would change into the draft; returns what is to be said of each stage."""
    planner = Planner(recipe, Path("runs"), for_card=True)
    needs = reckon(planner, planner.plan(list(recipe.stages)))
    said = [f"{one.stage}: what it needs is not known: {one.why_not}" for one in needs if one.need is None]
    for one in fitted(needs, card, None):
        for path, value in one.changes.items():
            draft.put(path, value, f"to fit {card.name}")
        needed = f"{one.stage}: needs {one.need.bytes / GIB:.1f} GiB of {card.name}, by the plan"
        if one.fits:
            tight = (
                ", tightly: the plan may be off by as much" if card.bytes - one.need.bytes < TIGHT * card.bytes else ""
            )
            said.append(needed + tight)
        else:
            said.append(f"{needed}: it does not fit; {'; '.join(one.otherwise)}")
    return said
