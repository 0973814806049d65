"""The interface: what is asked of an engine, and what it gives."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.errors import PipelineError

STOP, LENGTH, CANCELLED, FAILED = "stop", "length", "cancelled", "error"


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; a temperature of 0 takes the likeliest.

    `top_k` 0, `top_p` 1, `min_p` 0, `repetition_penalty` 1 and the other penalties at 0 do nothing. In this order: penalties,
    temperature, top_k, top_p, min_p. With the same seed and prompt the answer is the same; without one it is another each time.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0  # of what prompt and answer have
    frequency_penalty: float = 0.0  # taken off a token's logit for each time that the answer has it
    presence_penalty: float = 0.0  # taken off once, where the answer has it
    seed: int | str | None = None

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken as the model has it."""
        penalties = self.repetition_penalty != 1 or self.frequency_penalty or self.presence_penalty
        return self.temperature == 0 and not penalties


@dataclass(frozen=True)
class Request:
    """`echo` is the prompt's text, where it is to be told before the answer, with its log-probabilities if there are any.

    `continues` where the answer goes on in the text of `ids`; else it stands for itself, as an assistant's does."""

    policy: str
    ids: list[int]
    most_tokens: int
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()  # texts at which the answer ends; they are not part of it
    lead: str = ""  # a text that is no part of the answer where it begins with it
    logprobs: int | None = None  # of the chosen token and of so many of the likeliest
    continues: bool = False
    echo: str | None = None

    @property
    def scores_prompt(self) -> bool:
        return self.echo is not None and self.logprobs is not None


@dataclass(frozen=True)
class Token:
    """A token of the answer, with natural log-probabilities of the model itself, before any sampling option."""

    id: int
    text: str
    logprob: float | None  # None: nothing was before it
    likeliest: tuple[tuple[int, str, float], ...]  # (id, text, log-probability)
    letters: int | None = None  # that it adds to the text, where these are not its own


@dataclass(frozen=True)
class Piece:
    """What comes of an answer at once. The last piece has `finish`."""

    text: str
    tokens: tuple[Token, ...] = ()  # those of the text, where log-probabilities were asked for
    count: int = 0  # tokens generated so far, the one that ends the answer among them
    finish: str | None = None
    error: PipelineError | None = None  # of an answer that failed


class Full(PipelineError):
    """As many requests wait as the engine takes."""


@dataclass
class Ticket:
    """Held by who asked. After `cancel` nothing more is delivered but the end."""

    cancelled: bool = field(default=False)

    def cancel(self) -> None:
        self.cancelled = True


class Answers(Protocol):
    """An engine. `deliver` is called for each piece, from another thread; it must return at once."""

    def ask(self, request: Request, deliver: Callable[[Piece], None]) -> Ticket:
        """Raises Full, without having taken the request."""

    def close(self) -> None: ...
