"""`evaluation.judge`: who says which of two answers is better, and what it is asked."""

import os
import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, model_validator

from pipeline.section import Section
from pipeline.wording import must_be

REWARD = "reward"  # in place of a section: the reward model that the stage trains on
CRITERIA = "The better one is more correct, more helpful, and says no more than it has to."
HOW = {"url", "key_from", "timeout", "tries", "at_once"}  # settings that are about the way to the judge
NO_OPTIONS = {"model", "messages", "stream", "n"}  # that are the pipeline's own


def _address(value: object) -> object:
    if value is None:
        return value
    parts = urlsplit(value) if isinstance(value, str) else None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(must_be("an address, such as http://127.0.0.1:8000/v1", value))
    if parts.username or parts.password:
        raise ValueError("holds a name or a password; put the key into an environment variable and name that: key_from")
    return str(value).rstrip("/").removesuffix("/chat/completions")


def _variable(value: object) -> object:
    if value is None or (isinstance(value, str) and re.fullmatch(r"[A-Z_][A-Z0-9_]*", value)):
        return value
    # Not quoted: it may be the key itself.
    raise ValueError("must be the name of an environment variable in capitals, such as JUDGE_API_KEY, and not the key")


def _options(value: object) -> object:
    if isinstance(value, dict) and (own := sorted(NO_OPTIONS & value.keys())):
        raise ValueError(f"{', '.join(own)}: the pipeline sets it")
    return value


class Judge(Section):
    """`options` go into each request as they are; what a judge does not take is left out there."""

    url: Annotated[str | None, BeforeValidator(_address)] = None
    """The address of a server that speaks OpenAI's API: `http://127.0.0.1:8000/v1`."""
    model: str | None = None
    """What the server calls the model that judges."""
    reward: bool = False
    """The reward model judges; `judge: reward` says the same."""
    key_from: Annotated[str | None, BeforeValidator(_variable)] = None
    """The environment variable that holds the server's key."""
    against: Literal["before", "reference"] = "before"
    """What answers are held against: those of before the stage, or the reference answers."""
    criteria: str = CRITERIA
    """What the judge is told to go by."""
    options: Annotated[dict[str, Any], BeforeValidator(_options)] = Field(
        default_factory=lambda: {"temperature": 0, "max_tokens": 512}
    )
    """What goes into each request as it is."""
    timeout: Annotated[float, Field(gt=0)] = 60.0
    """Seconds for one answer of the judge."""
    tries: Annotated[int, Field(ge=1)] = 3
    """How often one question is asked until it gets a verdict."""
    at_once: Annotated[int, Field(ge=1)] = 4
    """Questions asked at a time."""

    @model_validator(mode="after")
    def _one_judge(self):
        if self.reward and (self.url or self.model):
            raise ValueError("is the reward model, and takes no url or model")
        if not self.reward and not (self.url and self.model):
            raise ValueError(
                f"needs url and model, as in {{url: http://127.0.0.1:8000/v1, model: a-name}}, or is {REWARD}"
            )
        return self

    @property
    def name(self) -> str:
        return "the reward model" if self.reward else str(self.model)

    @property
    def key_is_missing(self) -> bool:
        return self.key_from is not None and not os.environ.get(self.key_from)

    def what(self) -> dict[str, Any]:
        """What its verdicts depend on."""
        return self.model_dump(exclude=HOW)


def judge_of(value: object) -> object:
    if value == REWARD:
        return {"reward": True}
    if isinstance(value, str):
        raise ValueError(must_be("{url: an address, model: a name}, or reward", value))
    return value
