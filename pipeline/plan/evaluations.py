"""What the figures of a stage depend on beside its weights. It is no part of the fingerprint: another evaluation trains
nothing again."""

from hashlib import sha256
from pathlib import Path

from pipeline.artifact.digests import Digests, canonical, difference
from pipeline.recipe import judging
from pipeline.recipe.recipe import Recipe

HOW = {"batch_size"}  # settings that change no figure
# Settings that came after others were measured: at their default they ask for no new figures.
LATER = {"earlier_stages": True, "text": [], "labels": [], "judge": None}


class Evaluations:
    """The sections `evaluation` of one recipe."""

    def __init__(self, recipe: Recipe, digests: Digests):
        self.recipe, self.digests = recipe, digests

    def sha256(self, name: str) -> str:
        """Of the settings, and of the function's file where they name one."""
        evaluation = self.recipe.stage(name).evaluation
        unsaid = {key for key, value in LATER.items() if getattr(evaluation, key) == value}
        what = evaluation.model_dump(exclude=HOW | unsaid)
        if evaluation.judge:
            what["judge"] = evaluation.judge.what()
        if evaluation.score_function:
            what["score_function"] = self.digests.of(Path(evaluation.score_function.rpartition(":")[0]))
        return sha256(canonical(what)).hexdigest()

    def changes(self, name: str, was: dict) -> list[str]:
        """What is measured otherwise than with the settings `was`, one line a key.

        Where no key is, the function's file is another.
        """
        now = _asked(self.recipe.stage(name).evaluation.model_dump())
        was = LATER | _asked(was)
        file = str(now["score_function"]).rpartition(":")[0]
        return list(difference(was, now, "evaluation")) or [f"content of {file}"]


def _asked(settings: dict) -> dict:
    """Without what changes no figure."""
    kept = {key: value for key, value in settings.items() if key not in HOW}
    if judge := kept.get("judge"):
        kept["judge"] = {key: value for key, value in judge.items() if key not in judging.HOW}
    return kept
