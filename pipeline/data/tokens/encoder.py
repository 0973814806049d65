"""Examples to token ids, with the labels that carry loss, cut to length with every cut on record."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy

from pipeline.data.shapes.fields import BadRow
from pipeline.data.shapes.kinds import Conversation, Kind, Text
from pipeline.data.tokens.dialogs import Dialogs, as_ids
from pipeline.data.tokens.encoded import IGNORED, Encoded, same_tokens
from pipeline.data.tokens.places import Span
from pipeline.data.tokens.truncation import TooLong, Truncation


@dataclass(frozen=True)
class Encoder:
    """Makes the columns that a kind of row is trained as.

    `max_length` counts tokens; None cuts nothing. `through_suffix` keeps what the template writes
    after the stop token: a reward model is asked for its score at the very end of a rendered
    conversation, whereas a policy has finished at the stop token. `learn` is the "answers" of a
    conversation, the "last" of them, or "everything".
    """

    tokenizer: Any = field(repr=False)
    max_length: int | None = None
    on_too_long: str = "truncate"
    through_suffix: bool = False
    learn: str = "answers"

    def encode(self, examples: Sequence[Kind], kind: type[Kind]) -> Iterator[Encoded | BadRow]:
        """For each example its tokens in the COLUMNS of its kind, or why it has none to train on."""
        own_way: dict[type[Kind], Callable] = {Text: self._texts, Conversation: self._conversations}
        made = own_way.get(kind, self._answered if kind.COLUMNS[1:] else self._prompts)(examples)
        if kind is Text:
            yield from made
            return
        truncation = Truncation(self.max_length, self.on_too_long, self.tokenizer.bos_token_id)
        for encoded in made:
            if isinstance(encoded, Encoded):
                try:
                    encoded = truncation.of(kind, encoded)
                except TooLong as bad:
                    encoded = bad
                else:
                    if kind is Conversation and self.learn == "everything":
                        encoded.pieces[0]["labels"] = encoded.pieces[0]["input_ids"]
            yield encoded

    def prompt_ids(self, messages: list[dict], tools: list[dict] | None = None) -> list[int]:
        """The tokens of a prompt, through the invitation to answer. Raises BadRow."""
        return self._dialogs.prompt(messages, tools)[0].tolist()

    def _texts(self, chunk: Sequence[Any]) -> Iterator[Encoded]:
        """Documents in pieces of at most max_length tokens; none is joined to another, and none is cut."""
        eos = self.tokenizer.eos_token_id
        for ids in self.tokenizer([one.text for one in chunk]).input_ids:
            whole = as_ids(ids if ids[-1:] == [eos] else [*ids, eos])
            length = self.max_length or len(whole)
            yield Encoded([{"input_ids": whole[at : at + length]} for at in range(0, len(whole), length)])

    def _conversations(self, chunk: Sequence[Kind]) -> Iterator[Encoded | BadRow]:
        for encoded in self._dialogs.of(chunk, lambda example: [example.messages], self._learned):
            if isinstance(encoded, BadRow):
                yield encoded
                continue
            ((ids, answers),), unshown = encoded
            labels = numpy.full_like(ids, IGNORED)
            for start, end in answers:
                labels[start:end] = ids[start:end]
            yield Encoded([{"input_ids": ids, "labels": labels}], unshown=unshown)

    def _answered(self, chunk: Sequence[Kind]) -> Iterator[Encoded | BadRow]:
        """Prompts with an answer or several, each in a column of its own."""

        def each(example: Kind) -> list[list[dict]]:
            return [[*example.question, answer] for answer in example.answers]

        for example, one in zip(chunk, self._dialogs.of(chunk, each, lambda _, spans: spans[-1:]), strict=True):
            if isinstance(one, BadRow):
                yield one
                continue
            encoded, unshown = one
            # A token may span the seam between prompt and answer on one side only: it then belongs to both answers.
            seam = min(start for _, [(start, _)] in encoded)
            answers = [ids[seam : None if self.through_suffix else end] for ids, [(_, end)] in encoded]
            if same_tokens(answers):
                yield BadRow(f"{_quoted(example)} become the same tokens")
            else:
                columns: dict = dict(zip(example.COLUMNS, [encoded[0][0][:seam], *answers], strict=True))
                yield Encoded([columns | _numbers(example)], unshown=unshown)

    def _prompts(self, chunk: Sequence[Kind]) -> Iterator[Encoded | BadRow]:
        for one in chunk:
            try:
                ids, unshown = self._dialogs.prompt(one.question, one.tools)
                yield Encoded([{"prompt_ids": ids} | _numbers(one)], unshown=unshown)
            except BadRow as bad:
                yield bad

    def _learned(self, example: Any, answers: list[Span]) -> list[Span]:
        """Of a conversation's answers those that carry loss."""
        turns = [number for number, message in enumerate(example.messages) if message["role"] == "assistant"]
        learned = learned_turns(example, self.learn)
        return [answer for turn, answer in zip(turns, answers, strict=True) if turn in learned]

    @cached_property
    def _dialogs(self) -> Dialogs:
        return Dialogs(self.tokenizer)


def learned_turns(example: Conversation, learn: str) -> set[int]:
    """The answers that carry loss, by the number of their turn. Raises BadRow where there is none."""
    if learn == "everything" and example.skipped:
        raise BadRow('has an answer with "loss_weight" 0, and data.learn is everything')
    turns = [number for number, message in enumerate(example.messages) if message["role"] == "assistant"]
    learned = {*(turns[-1:] if learn == "last" else turns)} - example.skipped
    if not learned:
        raise BadRow('its last answer has "loss_weight" 0 and data.learn is last: there is nothing to learn')
    return learned


def _numbers(example: Kind) -> dict[str, float]:
    return {name: float(getattr(example, name)) for name in example.NUMBERS}


def _quoted(example: Kind) -> str:
    return " and ".join(f'"{name.removesuffix("_ids")}"' for name in example.COLUMNS[1:])
