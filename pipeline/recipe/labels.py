"""The labels of `evaluation.labels`, one of which each answer has to be."""

from typing import Annotated

from pydantic import BeforeValidator

from pipeline.wording import must_be


def _labels(said: object) -> list[str]:
    labels = [] if said is None else said
    wanted = "a list of two labels or more, such as [positive, negative]"
    if not isinstance(labels, list) or len(labels) == 1:
        raise ValueError(must_be(wanted, said))
    for one in labels:
        if not isinstance(one, str):
            raise ValueError(f"{must_be('text', one)}: put each label in quotes")
        if not one.strip() or one != one.strip():
            raise ValueError(f'"{one}" is no label: it is empty, or has spaces around it')
    if len({one.casefold() for one in labels}) < len(labels):
        raise ValueError(f"has a label twice (capitals make no difference): {', '.join(labels)}")
    return labels


LabelNames = Annotated[list[str], BeforeValidator(_labels)]
