"""What was said with one policy so far."""

from dataclasses import dataclass, field
from queue import SimpleQueue
from time import perf_counter

from pipeline.data.shapes.turns import turn
from pipeline.errors import PipelineError
from pipeline.use.asking import Defaults, chat_request, prompt_of
from pipeline.use.engine.request import Answers, Piece, Sampling, Ticket
from pipeline.use.loaded import Policy


@dataclass
class Asked:
    """A question under way, as text so far."""

    ticket: Ticket
    arriving: SimpleQueue
    started: float = field(default_factory=perf_counter)
    text: str = ""
    first: float | None = None  # when, in seconds, the first token came
    last: Piece | None = None
    seconds: float = 0.0

    def take(self, piece: Piece) -> None:
        self.seconds = perf_counter() - self.started
        self.first = self.seconds if self.first is None else self.first
        self.text += piece.text
        self.last = piece if piece.finish else None

    @property
    def speed(self) -> float:
        """Tokens a second, the reading of the prompt left out."""
        after = self.seconds - self.first
        return (self.last.count - 1) / after if after > 0 and self.last.count > 1 else 0.0


class Conversation:
    def __init__(self, policy: Policy, engine: Answers, sampling: Sampling, most_tokens: int | None):
        self.policy, self.name = policy, policy.subject.name
        self._engine, self._sampling = engine, sampling
        self._most_tokens = most_tokens or Defaults.of(policy).most_tokens
        self.system: str | None = None
        self.turns: list[dict] = []

    @property
    def messages(self) -> list[dict]:
        return [*([turn("system", self.system)] if self.system else []), *self.turns]

    def check(self) -> None:
        """Raises Unshowable where the template has no place for the system prompt."""
        prompt_of(self.policy, [*self.messages[: bool(self.system)], turn("user", "?")])

    def ask(self, question: str, arriving: SimpleQueue) -> Asked:
        """Pieces come into `arriving` as (this conversation, piece). Raises TooLong, and says nothing then."""
        messages = [*self.messages, turn("user", question)]
        asked = chat_request(self.policy, messages, self._most_tokens, self._sampling)
        return Asked(self._engine.ask(asked, lambda piece: arriving.put((self, piece))), arriving)

    def keep(self, question: str, answer: str) -> None:
        self.turns += [turn("user", question), turn("assistant", answer)]

    def undo(self) -> None:
        if not self.turns:
            raise PipelineError("There is nothing to take back.")
        del self.turns[-2:]
