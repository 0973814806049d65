"""Rows measured without a tokenizer: in words, and of Chinese and Japanese, which writes none apart, in characters."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy

from pipeline.data.shapes.examples import BadRow
from pipeline.data.shapes.kinds import Conversation, Kind
from pipeline.data.tokens.encoded import IGNORED, Encoded
from pipeline.data.tokens.encoder import learned_turns

_CHARACTER = "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_CHARACTER}]|[^\s{_CHARACTER}]+")

Said = tuple[str, bool]  # some words, and whether they are learned


@dataclass(frozen=True)
class Words:
    """Stands where an Encoder would: a row is as long as it has words. No chat template is tried."""

    learn: str = "answers"
    max_length = None  # counts tokens

    def encode(self, examples: Sequence[Kind], kind: type[Kind]) -> Iterator[Encoded | BadRow]:
        """Columns of the right length; what is in them says nothing."""
        for example in examples:
            try:
                sides = self._sides(example)
            except BadRow as bad:
                yield bad
                continue
            learned = [numpy.array([learn for text, learn in side for _ in _WORD.finditer(text)]) for side in sides]
            columns: dict = {name: numpy.zeros(len(side), numpy.int32) for name, side in zip(kind.COLUMNS, learned)}  # noqa: B905
            columns |= {name: float(getattr(example, name)) for name in kind.NUMBERS}
            if kind is Conversation:
                columns["labels"] = numpy.where(learned[0], 0, IGNORED).astype(numpy.int32)
            yield Encoded([columns])

    def written(self, example: Kind) -> list[Said]:
        """An example word by word, with the space behind; of a pair the chosen side."""
        sides = self._sides(example)[:2]
        return [
            (word, learn)
            for side in sides
            for text, learn in side
            for word in re.findall(rf"(?:{_WORD.pattern})\s*", text)
        ]

    def _sides(self, example: Kind) -> list[list[Said]]:
        """What goes into each of the columns that are trained on."""
        if not example.ASKS:
            return [[(example.prompt, True)]]
        talk = isinstance(example, Conversation)
        learned = learned_turns(example, self.learn) if isinstance(example, Conversation) else set()
        everything = talk and self.learn == "everything"
        prompt = [(json.dumps(example.tools, ensure_ascii=False), everything)] if example.tools else []
        for number, message in enumerate(example.messages):
            calls = json.dumps(message["tool_calls"], ensure_ascii=False) if message.get("tool_calls") else ""
            prompt += [(text, everything or number in learned) for text in (message["content"], calls)]
        return [prompt, *([(answer["content"], True)] for answer in example.answers)]
