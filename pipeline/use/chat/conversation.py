"""What was said with one policy so far."""

from dataclasses import dataclass, field
from queue import SimpleQueue
from time import perf_counter

from pipeline.data.shapes.turns import turn
from pipeline.errors import PipelineError
from pipeline.use.asking import Defaults, TooLong, chat_request, prompt_of
from pipeline.use.engine.request import STOP, Answers, Piece, Sampling, Ticket
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
        self._whole: list[bool] = []  # of each answer, whether it came to its own end

    @property
    def messages(self) -> list[dict]:
        return [*([turn("system", self.system)] if self.system else []), *self.turns]

    def check(self) -> None:
        """Raises Unshowable where the template has no place for the system prompt."""
        prompt_of(self.policy, [*self.messages[: bool(self.system)], turn("user", "?")])

    def ask(self, question: str, arriving: SimpleQueue) -> Asked:
        """Pieces come into `arriving` as (this conversation, piece). Raises PipelineError, and says nothing then."""
        messages = [*self.messages, turn("user", question)]
        try:
            asked = chat_request(self.policy, messages, self._most_tokens, self._sampling)
        except TooLong as error:
            fix = "/undo takes a question and its answer back, /reset begins anew." if self.turns else error.fix
            raise PipelineError(error.what, fix) from None
        return Asked(self._engine.ask(asked, lambda piece: arriving.put((self, piece))), arriving)

    def keep(self, question: str, answer: Asked) -> None:
        self.turns += [turn("user", question), turn("assistant", answer.text)]
        self._whole.append(answer.last.finish == STOP)

    def undo(self) -> str:
        """The question that was taken back."""
        if not self.turns:
            raise PipelineError("There is nothing to take back.")
        question = self.turns[-2]["content"]
        del self.turns[-2:], self._whole[-1:]
        return question

    def reset(self) -> None:
        self.turns.clear()
        self._whole.clear()

    @property
    def cut(self) -> int:
        """How many answers were stopped before their end: to learn them would be to learn to end there."""
        return self._whole.count(False)

    @property
    def row(self) -> dict | None:
        """To be trained on, answers that were cut left out of the loss; None where there is no other."""
        if not any(self._whole):
            return None
        whole = iter(self._whole)
        learned = [one["role"] != "assistant" or next(whole) for one in self.messages]
        messages = [one if told else one | {"weight": 0} for one, told in zip(self.messages, learned, strict=True)]
        return {"model": self.name, "messages": messages}
