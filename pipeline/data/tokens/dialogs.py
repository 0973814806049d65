"""Messages to token ids by the chat template, and which of the tokens are answers."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import numpy

from pipeline.data.shapes.fields import BadRow
from pipeline.data.shapes.kinds import Kind
from pipeline.data.tokens.encoded import Ids
from pipeline.data.tokens.places import Places, Span
from pipeline.data.tokens.template import Template

Unshown = tuple[int, ...]  # the turns, from 1, whose reasoning the template leaves out


class Dialogs:
    """Renders dialogs, one or several a row, and finds the answers in their tokens."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def of(
        self,
        examples: Sequence[Kind],
        dialogs: Callable[[Kind], list[list[dict]]],
        learned: Callable[[Kind, list[Span]], list[Span]],
    ) -> Iterator[tuple[list[tuple[Ids, list[Span]]], Unshown] | BadRow]:
        """For each example the tokens of its `dialogs`, and where the `learned` of their answers stand; or why not."""
        rendered: list[list[tuple] | BadRow] = []
        for one in examples:
            try:
                rendered.append([self._rendered(one, messages, learned) for messages in dialogs(one)])
            except BadRow as bad:
                rendered.append(bad)
        flat = [one for texts in rendered if isinstance(texts, list) for one in texts]
        every = iter(self._places.of([text for text, *_ in flat], [typed for _, _, typed, _ in flat]))
        for texts in rendered:
            if isinstance(texts, BadRow):
                yield texts
                continue
            encoded = []
            for _, spans, *_ in texts:
                tokens = next(every)
                answers = [tokens.at(*span) for span in spans]
                encoded.append((as_ids(tokens.ids), [(start, end) for start, end in answers if end > start]))
            if all(answers for _, answers in encoded):
                yield encoded, texts[0][-1]
            else:
                yield BadRow("an answer has no token of its own")

    def prompt(self, messages: list[dict], tools: list[dict] | None) -> tuple[Ids, Unshown]:
        """The tokens of a prompt, through the invitation to answer. Raises BadRow."""
        template = self._template
        messages, unshown = template.as_shown(messages, ask=True, tools=tools)
        text = template.render(messages, ask=True, tools=tools)
        template.check_shown(messages, text, ask=True, tools=tools)
        typed = template.typed_specials(messages, text, ask=True, tools=tools)
        (tokens,) = self._places.of([text], [typed])
        return as_ids(tokens.ids), unshown

    def _rendered(self, example: Kind, messages: list[dict], learned: Callable) -> tuple[str, list, list, Unshown]:
        """(text, places of learned answers, places of typed special tokens, turns with unshown reasoning)."""
        template, tools = self._template, example.tools
        messages, unshown = template.as_shown(messages, tools=tools)
        text = template.render(messages, tools=tools)
        template.check_shown(messages, text, tools=tools)
        answers = learned(example, template.answers(messages, text, tools))
        return text, answers, template.typed_specials(messages, text, tools=tools), unshown

    @cached_property
    def _places(self) -> Places:
        return Places(self.tokenizer)

    @cached_property
    def _template(self) -> Template:
        return Template(self.tokenizer)


def as_ids(ids: Sequence[int] | numpy.ndarray) -> Ids:
    return numpy.array(ids, dtype=numpy.int32)
