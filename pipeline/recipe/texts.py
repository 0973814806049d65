"""The figures of `evaluation.text`, which hold answers against reference answers by their characters and words."""

import importlib.util
from typing import Annotated

from pydantic import BeforeValidator

from pipeline.wording import must_be, not_among

PACKAGES = {"chrf": "sacrebleu", "bleu": "sacrebleu", "rouge_l": "rouge_score"}
EXTRA = "text"  # of this project, that has them


def _names(said: object) -> list[str]:
    """One alone may stand without its brackets."""
    names = [said] if isinstance(said, str) else [] if said is None else said
    if not isinstance(names, list):
        raise ValueError(must_be(f"a list of {', '.join(PACKAGES)}", said))
    for name in names:
        if name not in PACKAGES:
            raise ValueError(not_among(name, PACKAGES))
    return list(dict.fromkeys(names))


TextFigures = Annotated[list[str], BeforeValidator(_names)]


def missing(names: list[str]) -> list[str]:
    """The packages that these figures need and that are not installed; others need none."""
    return [
        one
        for one in dict.fromkeys(PACKAGES[name] for name in names if name in PACKAGES)
        if importlib.util.find_spec(one) is None
    ]
