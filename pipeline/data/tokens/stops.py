"""The tokens that end an answer in what a chat template writes."""

import re
from bisect import bisect
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cached_property
from typing import Any

from pipeline.data.shapes.fields import BadRow
from pipeline.data.tokens.rendering import Rendering
from pipeline.errors import PipelineError

PROMPT_TEXT, COMPLETION_TEXT = "what-is-asked", "what-is-answered"
PROMPT, COMPLETION = [{"role": "user", "content": PROMPT_TEXT}], {"role": "assistant", "content": COMPLETION_TEXT}
_BLANK = re.compile(r"\s*")


class Stops(Rendering):
    """Where answers stop in a chat template, which is tried out on small talk; an answer without an end gets one."""

    def check(self) -> None:
        """Raises PipelineError where the template cannot show even the simplest exchange."""
        self.shown(PROMPT, ask=True)
        _ = self._after_answer

    def tried(self, talks: Iterable[list[dict]], *, ask: bool = False, **beside: Any) -> Iterator[str]:
        """The text of each of the talks that the template does not refuse."""
        for talk in talks:
            with suppress(BadRow):
                yield self.render(talk, ask=ask, **beside)

    def render(self, messages: list[dict], *, ask: bool = False, tools: list[dict] | None = None, **beside: Any) -> str:
        """As `written`, and EOS after a last answer where the template ends none. Raises BadRow."""
        text = self.written(messages, ask=ask, tools=tools, **beside)
        return text if ask or messages[-1]["role"] != "assistant" or self.ends_in_stop else text + self.stop

    @cached_property
    def _after_answer(self) -> str:
        """What the template writes after an answer that stands last."""
        text = self.shown([*PROMPT, COMPLETION])
        if COMPLETION_TEXT not in text:
            raise PipelineError(f"{self.name}: leaves the assistant's answer out.", "Set model.template.")
        return text.rsplit(COMPLETION_TEXT, 1)[1]

    @cached_property
    def ends_in_stop(self) -> bool:
        return self._stop_in_template is not None

    @cached_property
    def _stop_in_template(self) -> str | None:
        return self._stop_in(self._after_answer)

    def _stop_in(self, after: str) -> str | None:
        """The token that ends an answer which `after` follows: of the first special tokens EOS, else the very first.

        EOS behind white space ends the conversation, not the answer: Phi-3 writes it in line after <|end|>.
        """
        found: list[str] = []
        at = None
        for one in self._added.finditer(after):
            if found and one.start() != at:
                break
            found.append(one[0])
            at = one.end()
        return self.tokenizer.eos_token if self.tokenizer.eos_token in found else next(iter(found), None)

    @cached_property
    def _added(self) -> re.Pattern:
        return any_of({*self.tokenizer.all_special_tokens, *map(str, self.tokenizer.added_tokens_decoder.values())})

    @cached_property
    def stop(self) -> str:
        """The token that ends an answer: the template's own, else EOS, which is then written after the answer."""
        return self._stop_in_template or self.tokenizer.eos_token

    @cached_property
    def lead(self) -> str:
        """What the template writes between the invitation and an answer, which is then no part of the answer."""
        text, asked = self.shown([*PROMPT, COMPLETION]), self.shown(PROMPT, ask=True)
        before = text.rsplit(COMPLETION_TEXT, 1)[0]
        return before[len(asked) :] if before.startswith(asked) else ""

    @property
    def every(self) -> set[str]:
        """All tokens that end what an assistant says: a last answer, an earlier one, a call of a tool, the text."""
        earlier = self._stop_in(self.earlier_tail)
        return {self.stop, self._stop_of_call, self.tokenizer.eos_token, earlier} - {None}

    @property
    def suffix(self) -> str:
        """What the template writes after the token that ends a last answer."""
        return self._after_answer.split(self.stop, 1)[1] if self.ends_in_stop else ""

    @cached_property
    def tail(self) -> str:
        """From the end of the answer through the token that ends it."""
        return self._after_answer.split(self.stop, 1)[0] + self.stop if self.ends_in_stop else self.stop

    @cached_property
    def earlier_tail(self) -> str:
        """The same of an answer that others follow, which may end in a token of its own (gpt-oss); or nothing.

        It is what stands between an answer and the invitation to another one, for what a user's turn begins with is
        no part of the answer. Where a user's turn is not led up to by that, the template asks which answer is the last,
        and it is what stands before another such turn and not before the first.
        """
        try:
            told, asked = (self.render(PROMPT, ask=ask) for ask in (False, True))
            text = self.render([*PROMPT, COMPLETION], ask=True)
            going_on = self.render([*PROMPT, COMPLETION, *PROMPT])
        except BadRow:  # the template does not go on after an answer
            return ""
        between = text.rsplit(COMPLETION_TEXT, 1)[-1].removesuffix(asked[agreed(asked, told) :])
        led_up = going_on.rsplit(COMPLETION_TEXT, 1)[-1].rsplit(PROMPT_TEXT, 1)[0]
        if not led_up.startswith(between):
            own = len(led_up) - agreed(led_up[::-1], told.split(PROMPT_TEXT, 1)[0][::-1])
            inside = (one.end() for one in self._added.finditer(led_up) if one.start() < own < one.end())
            between = led_up[: next(inside, own)]
        stop = self._stop_in(between)
        return between.split(stop, 1)[0] + stop if stop else ""

    @cached_property
    def _stop_of_call(self) -> str:
        """The token that ends a turn which calls a tool; it may be another one (gpt-oss)."""
        call = {"type": "function", "function": {"name": "what-is-called", "arguments": {"what": COMPLETION_TEXT}}}
        try:
            text = self.render([*PROMPT, {"role": "assistant", "content": "", "tool_calls": [call]}])
        except BadRow:  # the template does not know tools
            return self.stop
        after = text.rsplit(COMPLETION_TEXT, 1)[-1]
        # The last one, for the others stand inside the call.
        return self.stop if self.stop in after else (self._added.findall(after) or [self.stop])[-1]

    def _answer_end(self, text: str, at: int) -> int:
        """Where an answer ends whose words end at `at`: behind its stop token, if that comes next."""
        blank = _BLANK.match(text, at)
        start = blank.end() if blank else at
        tails = (tail.lstrip() for tail in (self.tail, self.stop, self.earlier_tail))
        return next((start + len(tail) for tail in tails if tail and text.startswith(tail, start)), at)


def any_of(tokens: Iterable[str]) -> re.Pattern:
    return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)")


def agreed(one: str, other: str) -> int:
    """With how many letters the two begin alike."""
    return bisect(range(1, len(one) + 1), False, key=lambda length: not other.startswith(one[:length]))
