"""What the server says, in OpenAI's shapes: whole answers, chunks of a stream, log-probabilities, errors."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from pipeline.use.engine.request import Token


@dataclass
class Choice:
    """One answer as far as it has come."""

    index: int
    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    count: int = 0
    finish: str | None = None


class Chat:
    """The shapes of /v1/chat/completions."""

    whole, part = "chat.completion", "chat.completion.chunk"

    def __init__(self, model: str, with_logprobs: bool, wants_usage: bool = False):
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._with_logprobs, self._wants_usage = with_logprobs, wants_usage

    def answer(self, choices: Sequence[Choice], prompts: Sequence[int]) -> dict:
        told = [
            {
                "index": one.index,
                "message": {"role": "assistant", "content": one.text, "refusal": None},
                "logprobs": self._logprobs(one.tokens),
                "finish_reason": one.finish,
            }
            for one in choices
        ]
        return {**self._head, "object": self.whole, "choices": told, "usage": usage(choices, prompts)}

    def first(self, choice: Choice) -> dict | None:
        """What begins the stream of a choice, before anything is generated."""
        return self._chunk(choice, {"role": "assistant", "content": ""}, ())

    def next(self, choice: Choice, text: str, tokens: Sequence[Token]) -> dict:
        return self._chunk(choice, {"content": text} if text or tokens else {}, tokens, choice.finish)

    def last(self, choices: Sequence[Choice], prompts: Sequence[int]) -> dict:
        return {**self._head, "object": self.part, "choices": [], "usage": usage(choices, prompts)}

    def _chunk(self, choice: Choice, delta: dict, tokens: Sequence[Token], finish: str | None = None) -> dict:
        logprobs = self._logprobs(tokens) if tokens else None
        told = {"index": choice.index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return {**self._head, "object": self.part, "choices": [told]} | ({"usage": None} if self._wants_usage else {})

    def _logprobs(self, tokens: Sequence[Token]) -> dict | None:
        if not self._with_logprobs:
            return None
        return {
            "content": [
                _scored(one.text, one.logprob) | {"top_logprobs": [_scored(*rest) for _, *rest in one.likeliest]}
                for one in tokens
            ],
            "refusal": None,
        }


class Completion:
    """The shapes of /v1/completions."""

    def __init__(self, model: str, with_logprobs: bool, wants_usage: bool = False):
        self._head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }
        self._with_logprobs, self._wants_usage = with_logprobs, wants_usage
        self._told: dict[int, int] = {}  # letters of each choice that were streamed

    def answer(self, choices: Sequence[Choice], prompts: Sequence[int]) -> dict:
        told = [self._choice(one.index, one.text, one.tokens, 0, one.finish) for one in choices]
        return {**self._head, "choices": told, "usage": usage(choices, prompts)}

    def first(self, choice: Choice) -> None:
        return None

    def next(self, choice: Choice, text: str, tokens: Sequence[Token]) -> dict:
        before = self._told.get(choice.index, 0)
        self._told[choice.index] = before + sum(map(_letters, tokens))
        told = self._choice(choice.index, text, tokens, before, choice.finish)
        return {**self._head, "choices": [told]} | ({"usage": None} if self._wants_usage else {})

    def last(self, choices: Sequence[Choice], prompts: Sequence[int]) -> dict:
        return {**self._head, "choices": [], "usage": usage(choices, prompts)}

    def _choice(self, index: int, text: str, tokens: Sequence[Token], before: int, finish: str | None) -> dict:
        logprobs = self._logprobs(tokens, before) if self._with_logprobs else None
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}

    @staticmethod
    def _logprobs(tokens: Sequence[Token], before: int) -> dict:
        ends = accumulate(map(_letters, tokens), initial=before)
        return {
            "tokens": [one.text for one in tokens],
            "token_logprobs": [one.logprob for one in tokens],
            "top_logprobs": [
                None if one.logprob is None else {text: logprob for _, text, logprob in one.likeliest} for one in tokens
            ],
            "text_offset": [end for end, _ in zip(ends, tokens, strict=False)],
        }


def usage(choices: Sequence[Choice], prompts: Sequence[int]) -> dict:
    """Each prompt is counted once, whatever n is."""
    asked, said = sum(prompts), sum(one.count for one in choices)
    return {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}


def error(message: str, kind: str, param: str | None = None, code: str | None = None) -> dict:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _letters(token: Token) -> int:
    return len(token.text) if token.letters is None else token.letters


def _scored(text: str, logprob: float) -> dict:
    # A part of a character has no text of its own, and its bytes are not known from it.
    whole = "\ufffd" not in text
    return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(text.encode()) if whole else None}
