"""One policy's batch: requests join it and leave it between any two tokens."""

import inspect
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from pipeline.errors import MachineError, PipelineError
from pipeline.use.engine import cache as caches
from pipeline.use.engine import echo
from pipeline.use.engine.request import CANCELLED, FAILED, LENGTH, STOP, Piece, Request, Ticket, Token
from pipeline.use.engine.sampling import choose
from pipeline.use.engine.text import Detokenizer, Lead, StopTexts, text_of
from pipeline.use.loaded import Policy

_PREFILL = 4096  # tokens of prompts, padding included, that are read at once; answers under way wait for them


class Answer:
    """A request being answered: its tokens so far, and the text that they make."""

    def __init__(self, request: Request, policy: Policy, ticket: Ticket, deliver: Callable[[Piece], None]):
        self.request, self.ticket = request, ticket
        self.ids = list(request.ids)
        self._policy, self._deliver = policy, deliver
        self._text = Detokenizer(policy.tokenizer, request.ids if request.continues else ())
        self._lead, self._stops = Lead(request.lead), StopTexts(request.stop)
        self._random = random.Random(request.sampling.seed)
        self._begun = False

    @property
    def count(self) -> int:
        return len(self.ids) - len(self.request.ids)

    def choose(self, logits: torch.Tensor) -> torch.Tensor:
        how = self.request.sampling
        said = self.ids[len(self.request.ids) :]
        return choose(logits, how, self.ids, self._random.random() if how.temperature else 0, said)

    def begin(self, logits: torch.Tensor | None) -> None:
        """Tell the prompt where that is asked, once; `logits` (tokens, vocabulary) follow its tokens where they are scored."""
        asked = self.request
        if asked.echo is not None and not self._begun:
            scored = asked.scores_prompt and echo.scored(
                self._policy.tokenizer, asked.ids, logits[: len(asked.ids)], asked.logprobs
            )
            self._deliver(Piece(asked.echo, scored or ()))
        self._begun = True

    def take(self, token: int, scored: tuple[float, Sequence[int], Sequence[float]] | None) -> bool:
        """The next token, with its log-probability and the likeliest tokens with theirs. True: the answer is at its end."""
        if not self.request.most_tokens:  # what was asked for is the prompt
            return self._finish(LENGTH)
        self.ids.append(token)
        if token in self._policy.stops:
            # Who has the prompt scored counts the tokens behind it.
            ending = replace(self._told(token, *scored), letters=0) if scored and self.request.scores_prompt else None
            return self._finish(STOP, ending=ending)
        words = self._lead.add(self._text.add(token))
        text, told, stopped = self._stops.add(words, scored and self._told(token, *scored))
        if stopped:
            return self._tell(text, told, STOP)
        if self.count >= self.request.most_tokens:
            return self._finish(LENGTH, text, told)
        return self._tell(text, told)

    def cancel(self) -> None:
        self._deliver(Piece("", count=self.count, finish=CANCELLED))

    def fail(self, error: PipelineError) -> None:
        self._deliver(Piece("", count=self.count, finish=FAILED, error=error))

    def _finish(self, why: str, text: str = "", told: Sequence[Token | None] = (), ending: Token | None = None) -> bool:
        """The end, with all that was held back; its last bytes may still make a stop text."""
        more, more_told, stopped = self._stops.add(self._lead.add(self._text.finish()) + self._lead.finish())
        rest, rest_told = ("", []) if stopped else self._stops.finish()
        return self._tell(text + more + rest, [*told, *more_told, *rest_told, ending], STOP if stopped else why)

    def _tell(self, text: str, told: Sequence[Token | None], finish: str | None = None) -> bool:
        tokens = tuple(filter(None, told))
        if text or tokens or finish:
            self._deliver(Piece(text, tokens, self.count, finish))
        return finish is not None

    def _told(self, token: int, logprob: float, ids: Sequence[int], logprobs: Sequence[float]) -> Token:
        tokenizer = self._policy.tokenizer
        likeliest = tuple((one, text_of(tokenizer, one), value) for one, value in zip(ids, logprobs, strict=True))
        return Token(token, text_of(tokenizer, token), logprob, likeliest)


class Lane:
    """The requests of one policy: those that wait, and those that are answered together, at most `most_rows`."""

    def __init__(self, policy: Policy, most_rows: int):
        self.policy = policy
        model = policy.transformer
        joined = caches.movable(model) and not getattr(policy.model, "virtual_tokens", 0)  # these stand before padding
        self._most_rows = most_rows if joined else 1
        self._takes = set(inspect.signature(model.forward).parameters)
        self._device = next(model.parameters()).device
        self._waiting: deque[Answer] = deque()
        self._rows: list[Answer] = []
        self._cache = None

    def __len__(self) -> int:
        return len(self._waiting) + len(self._rows)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def add(self, answer: Answer) -> None:
        self._waiting.append(answer)

    def step(self) -> None:
        """The next token of every row, after the first of those that join. Answers that fail are told so."""
        try:
            self._drop_cancelled()
            with torch.inference_mode(), self.policy.acting() as model:
                self._admit(model)
                if self._rows:
                    self._advance(model)
        except torch.OutOfMemoryError:
            self._make_room()

    def fail(self, error: PipelineError) -> None:
        """All that is under way ends so; where nothing is, what waits does."""
        for answer in self._rows or self._waiting:
            answer.fail(error)
        if not self._rows:
            self._waiting.clear()
        self._rows, self._cache = [], None

    def _drop_cancelled(self) -> None:
        for answer in [one for one in self._waiting if one.ticket.cancelled]:
            self._waiting.remove(answer)
            answer.cancel()
        if gone := [one for one in self._rows if one.ticket.cancelled]:
            for answer in gone:
                answer.cancel()
            self._keep([not one.ticket.cancelled for one in self._rows])

    def _admit(self, model) -> None:
        """Read the prompts of as many as there is room for, and let them join."""
        joining: list[Answer] = []
        while self._waiting and len(self._rows) + len(joining) < self._most_rows:
            longest = max(len(one.ids) for one in (*joining, self._waiting[0]))
            if joining and longest * (len(joining) + 1) > _PREFILL:
                break
            joining.append(self._waiting.popleft())
        if not joining:
            return
        lengths = [len(one.ids) for one in joining]
        new = caches.empty(self.policy.transformer)
        pad = self.policy.tokenizer.pad_token_id or 0
        ids = [[pad] * (max(lengths) - len(one.ids)) + one.ids for one in joining]
        old, rows = [(self._cache, at, len(one.ids) - 1) for at, one in enumerate(self._rows)], self._rows
        self._rows = [*rows, *joining]  # so that they wait again where memory runs out
        every = any(one.request.scores_prompt for one in joining)
        logits = self._forward(model, ids, lengths, new, every)
        for at, one in enumerate(joining):
            one.begin(logits[at, -lengths[at] :] if every else None)
        going = self._take(joining, logits[:, -1].float())
        self._rows = [*rows, *(one for one, goes in zip(joining, going, strict=True) if goes)]
        here = [(new, at, lengths[at]) for at, goes in enumerate(going) if goes]
        if not old and all(going):
            self._cache = new
        elif here:
            self._cache = caches.gathered([*old, *here])

    def _advance(self, model) -> None:
        lengths = [len(one.ids) for one in self._rows]
        logits = self._forward(model, [one.ids[-1:] for one in self._rows], lengths, self._cache)
        going = self._take(self._rows, logits[:, -1].float())
        if not all(going):
            self._keep(going)

    def _keep(self, kept: Sequence[bool]) -> None:
        rows = [(self._cache, at, len(one.ids) - 1) for at, one in enumerate(self._rows) if kept[at]]
        self._rows = [one for one, stays in zip(self._rows, kept, strict=True) if stays]
        self._cache = caches.gathered(rows) if rows else None

    def _forward(self, model, ids: list[list[int]], lengths: Sequence[int], cache, every: bool = False) -> torch.Tensor:
        """Logits (rows, tokens, vocabulary) of rows that are `lengths` tokens long by now: of every position, or at least of
        the last."""
        given = {"input_ids": torch.tensor(ids, device=self._device), "past_key_values": cache, "use_cache": True}
        if "logits_to_keep" in self._takes and not every:
            given["logits_to_keep"] = 1
        longest, new = max(lengths), len(ids[0])
        if min(lengths) < longest:
            first = longest - torch.tensor(lengths, device=self._device)[:, None]  # where each row begins
            places = torch.arange(longest, device=self._device)[None]
            given["attention_mask"] = (places >= first).long()
            if "position_ids" in self._takes:
                given["position_ids"] = (places - first).clamp(min=0)[:, -new:]
        return model(**given).logits

    @staticmethod
    def _take(answers: Sequence[Answer], logits: torch.Tensor) -> list[bool]:
        """Which of the answers go on."""
        greedy = all(one.request.sampling.greedy for one in answers)
        chosen = (
            logits.argmax(-1)
            if greedy
            else torch.stack([one.choose(row) for one, row in zip(answers, logits, strict=True)])
        )
        scored: list = [None] * len(answers)
        for at, answer in enumerate(answers):
            if (asked := answer.request.logprobs) is not None:
                logprobs = logits[at].log_softmax(-1)
                likeliest = logprobs.topk(asked)
                scored[at] = logprobs[chosen[at]].item(), likeliest.indices.tolist(), likeliest.values.tolist()
        return [not one.take(token, score) for one, token, score in zip(answers, chosen.tolist(), scored, strict=True)]

    def _make_room(self) -> None:
        """Memory ran out: fewer at once from now on. What they have so far is read again with their prompts."""
        rows, self._rows, self._cache = self._rows, [], None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(rows) == 1:
            rows[0].fail(MachineError("The memory does not suffice for this request alone."))
            return
        self._most_rows = max(1, len(rows) // 2)
        self._waiting.extendleft(reversed(rows))
