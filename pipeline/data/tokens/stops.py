"""What a chat template makes of a conversation, and the token that ends an answer in it."""

import re
from bisect import bisect
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cached_property

from jinja2.exceptions import TemplateError

from pipeline.data.shapes.fields import BadRow
from pipeline.data.shapes.turns import REASONING
from pipeline.data.tokens.template_files import broken, line_of, reason_of
from pipeline.errors import PipelineError

ASKED, ANSWERED = "what-is-asked", "what-is-answered"
ASKS, ANSWERS = [{"role": "user", "content": ASKED}], {"role": "assistant", "content": ANSWERED}
_BLANK = re.compile(r"\s*")
SHOWS_TOOLS = "model.template: qwen is one that shows tools"


class Stops:
    """A tokenizer's chat template: its text, and where an answer stops. What it does is tried out on small talk."""

    def __init__(self, tokenizer, name: str = "the model's chat template"):
        self.tokenizer, self.name = tokenizer, name

    def check(self) -> None:
        """Raises PipelineError where the template cannot show even the simplest exchange."""
        self._shown(ASKS, ask=True)
        _ = self._after_answer

    @property
    def source(self) -> str:
        """Its Jinja."""
        return self.tokenizer.get_chat_template()

    def tried(self, talks: Iterable[list[dict]], *, ask: bool = False, **beside: object) -> Iterator[str]:
        """The text of each of the talks that the template does not refuse."""
        for talk in talks:
            with suppress(BadRow):
                yield self.render(talk, ask=ask, **beside)

    def render(
        self, messages: list[dict], *, ask: bool = False, tools: list[dict] | None = None, **beside: object
    ) -> str:
        """`messages` as text; with `ask`, followed by what invites the answer. `beside` is what else it may read.

        Raises BadRow where the template refuses the messages (a role that it does not know, say).
        """
        try:
            text = self._applied(messages, ask=ask, tools=tools, **beside)
        except TemplateError as error:
            hint = f"; {SHOWS_TOOLS}" if any(one["role"] == "tool" for one in messages) else ""
            raise BadRow(f"the chat template refuses it: {error}{hint}") from None
        except Exception as error:  # a template can fail in every way that an expression can
            where = f" in line {line}" if (line := line_of(error)) else ""
            raise BadRow(f"the chat template fails on it{where}: {reason_of(error)}") from None
        return text if ask or messages[-1]["role"] != "assistant" or self.ends_in_stop else text + self.stop

    def _applied(self, messages: list[dict], *, ask: bool = False, **beside: object) -> str:
        written = [one | dict.fromkeys(REASONING, one["reasoning"]) if "reasoning" in one else one for one in messages]
        return self.tokenizer.apply_chat_template(written, tokenize=False, add_generation_prompt=ask, **beside)

    def _shown(self, messages: list[dict], *, ask: bool = False) -> str:
        """What the template makes of an exchange that every template must be able to show."""
        try:
            return self._applied(messages, ask=ask)
        except Exception as error:  # see render
            raise broken(self.name, error) from None

    @cached_property
    def _after_answer(self) -> str:
        """What the template writes after an answer that stands last."""
        text = self._shown([*ASKS, ANSWERS])
        if ANSWERED not in text:
            raise PipelineError(f"{self.name}: leaves the assistant's answer out.", "Set model.template.")
        return text.rsplit(ANSWERED, 1)[1]

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
        found, at = [], None
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
        text, asked = self._shown([*ASKS, ANSWERS]), self._shown(ASKS, ask=True)
        before = text.rsplit(ANSWERED, 1)[0]
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
            told, asked = (self.render(ASKS, ask=ask) for ask in (False, True))
            text = self.render([*ASKS, ANSWERS], ask=True)
            going_on = self.render([*ASKS, ANSWERS, *ASKS])
        except BadRow:  # the template does not go on after an answer
            return ""
        between = text.rsplit(ANSWERED, 1)[-1].removesuffix(asked[agreed(asked, told) :])
        led_up = going_on.rsplit(ANSWERED, 1)[-1].rsplit(ASKED, 1)[0]
        if not led_up.startswith(between):
            own = len(led_up) - agreed(led_up[::-1], told.split(ASKED, 1)[0][::-1])
            inside = (one.end() for one in self._added.finditer(led_up) if one.start() < own < one.end())
            between = led_up[: next(inside, own)]
        stop = self._stop_in(between)
        return between.split(stop, 1)[0] + stop if stop else ""

    @cached_property
    def _stop_of_call(self) -> str:
        """The token that ends a turn which calls a tool; it may be another one (gpt-oss)."""
        call = {"type": "function", "function": {"name": "what-is-called", "arguments": {"what": ANSWERED}}}
        try:
            text = self.render([*ASKS, {"role": "assistant", "content": "", "tool_calls": [call]}])
        except BadRow:  # the template does not know tools
            return self.stop
        after = text.rsplit(ANSWERED, 1)[-1]
        # The last one, for the others stand inside the call.
        return self.stop if self.stop in after else (self._added.findall(after) or [self.stop])[-1]

    def _answer_end(self, text: str, at: int) -> int:
        """Where an answer ends whose words end at `at`: behind its stop token, if that comes next."""
        start = _BLANK.match(text, at).end()
        tails = (tail.lstrip() for tail in (self.tail, self.stop, self.earlier_tail))
        return next((start + len(tail) for tail in tails if tail and text.startswith(tail, start)), at)


def any_of(tokens: Iterable[str]) -> re.Pattern:
    return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)")


def agreed(one: str, other: str) -> int:
    """With how many letters the two begin alike."""
    return bisect(range(1, len(one) + 1), False, key=lambda length: not other.startswith(one[:length]))
