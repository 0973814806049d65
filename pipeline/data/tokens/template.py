"""Conversations to text by the model's chat template: what it shows, what it leaves out, and what was typed into it."""

import re
from collections.abc import Sequence
from functools import cached_property

from pipeline.data.shapes.fields import BadRow
from pipeline.data.tokens.answers import Answers, find, names
from pipeline.data.tokens.rendering import SHOWS_TOOLS
from pipeline.data.tokens.stops import any_of

_THOUGHT = "what-is-thought-"
SHOWS_REASONING = "model.template: qwen3 is one that shows it; else leave it out of the row"


class Template(Answers):
    """The chat template of a tokenizer, held to what a row says: nothing may be left out in silence."""

    def as_shown(
        self, messages: list[dict], *, ask: bool = False, tools: list[dict] | None = None
    ) -> tuple[list[dict], tuple[int, ...]]:
        """The messages without the reasoning that the template leaves out, and the turns, from 1, that had it.

        Many templates show reasoning only until the next question is asked: as it will be when the model is used.
        Raises BadRow where a turn's would not be shown even if it were the last.
        """
        thoughts = {
            number: one | {"reasoning": f"{_THOUGHT}{number}."}
            for number, one in enumerate(messages)
            if "reasoning" in one
        }
        if not thoughts:
            return messages, ()
        marked = [thoughts.get(number, one) for number, one in enumerate(messages)]
        text = self.render(marked, ask=ask, tools=tools)
        hidden = [number for number, one in thoughts.items() if one["reasoning"] not in text]
        for number in hidden:
            if thoughts[number]["reasoning"] not in self.render(marked[: number + 1], tools=tools):
                leaves_out = f"the model's chat template leaves out the reasoning of turn {number + 1}"
                raise BadRow(f"{leaves_out}; {SHOWS_REASONING}")
        silent = [
            {key: value for key, value in one.items() if key != "reasoning" or number not in hidden}
            for number, one in enumerate(messages)
        ]
        return silent, tuple(number + 1 for number in hidden)

    def check_shown(
        self, messages: list[dict], text: str, *, ask: bool = False, tools: list[dict] | None = None
    ) -> None:
        """Raises BadRow where the template leaves out of `text` what it has no words for.

        Most templates do so in silence, and the model would learn answers to what it was never told.
        """
        leaves_out = "the model's chat template leaves out"
        if messages[0]["role"] == "system":
            told = messages[0]["content"]
            # With another prompt, not with none: where there is none, a template may write this very one by itself.
            others = [messages[0] | {"content": told + "?"}, *messages[1:]]
            shown = not tools and self._spans(messages, text) is not None
            if not shown and self._lacks(text, [told.strip()], others, ask=ask, tools=tools):
                raise BadRow(f"{leaves_out} the system prompt")
        if tools and self._lacks(text, names(tools), messages, ask=ask):
            raise BadRow(f'{leaves_out} the tools that "tools" lists; {SHOWS_TOOLS}')
        for number, message in enumerate(messages):
            if calls := message.get("tool_calls"):
                silent = {key: value for key, value in message.items() if key != "tool_calls"}
                others = [*messages[:number], silent, *messages[number + 1 :]]
                if self._lacks(text, names(calls), others, ask=ask, tools=tools):
                    raise BadRow(f"{leaves_out} the tool call of turn {number + 1} ({', '.join(names(calls))})")
            elif message["role"] == "tool" and find(message, text, 0)[0] < 0:
                raise BadRow(f"{leaves_out} what the tool answered in turn {number + 1}")

    def _lacks(self, text: str, words: Sequence[str], others: list[dict], **how) -> bool:
        """Whether the words are not in `text`, or stand there for no reason: `others`, without them, gives the same."""
        if any(word not in text for word in words):
            return True
        try:
            return self.render(others, **how) == text
        except BadRow:
            return False

    def typed_specials(
        self, messages: list[dict], text: str, *, ask: bool = False, tools: list[dict] | None = None
    ) -> list[tuple[int, int]]:
        """Where in `text` somebody other than the assistant typed what reads as a special token: (start, end).

        Marks stand in for what was typed in a second rendering, since the template writes such tokens itself.
        """
        typed = [message["content"] for message in messages if message["role"] != "assistant"]
        if not any(map(self._special.search, typed)):
            return []
        free = (chr(code) for code in range(0xF0000, 0xFFFFD) if chr(code) not in text)
        marks = dict(zip(dict.fromkeys(self._special.findall("\n".join(typed))), free, strict=False))
        marked = [
            message
            if message["role"] == "assistant"
            else message | {"content": self._special.sub(lambda found: marks[found[0]], message["content"])}
            for message in messages
        ]
        tokens = {mark: token for token, mark in marks.items()}
        spans: list[tuple[int, int]] = []
        again = ""
        for piece in re.split(f"([{''.join(tokens)}])", self.render(marked, ask=ask, tools=tools)):
            again += str(tokens.get(piece, piece))
            if piece in tokens:
                spans.append((len(again) - len(tokens[piece]), len(again)))
        if again != text:
            raise BadRow("has special tokens in its text, which the chat template does not write as they are")
        return spans

    @cached_property
    def _special(self) -> re.Pattern:
        return any_of(str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special)
