"""Examples to token ids, with the labels that carry loss, cut to length with every cut on record."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy

from pipeline.data.shapes.kinds import Conversation, Kind, Text
from pipeline.data.shapes.shape import BadRow
from pipeline.data.tokens.places import Places
from pipeline.data.tokens.template import Template

TOO_LONG = "is too long"  # how every reason begins that max_length is behind
IGNORED = -100  # the label that PyTorch's cross entropy leaves out

Ids = numpy.ndarray  # (tokens,) int32


class TooLong(BadRow):
    """A good row that max_length leaves no room for."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A row as tokens: one piece, or several of a long text; and how many of its tokens were cut off."""

    pieces: list[dict[str, Ids]]
    cut: int = 0
    answer_cut: bool = False
    unshown: tuple[int, ...] = ()  # the turns, from 1, whose reasoning the chat template leaves out


@dataclass(frozen=True)
class Encoder:
    """Makes the columns that a kind of row is trained as.

    `max_length` counts tokens; None cuts nothing. `through_suffix` keeps what the template writes
    after the stop token: a reward model is asked for its score at the very end of a rendered
    conversation, whereas a policy has finished at the stop token. `learn` is the "answers" of a
    conversation, the "last" of them, or "everything".
    """

    tokenizer: object = field(repr=False)
    max_length: int | None = None
    on_too_long: str = "truncate"
    through_suffix: bool = False
    learn: str = "answers"

    def encode(self, examples: Sequence[Kind], kind: type[Kind]) -> Iterator[Encoded | BadRow]:
        """For each example its tokens in the COLUMNS of its kind, or why it has none to train on."""
        own_way = {Text: self._texts, Conversation: self._conversations}
        made = own_way.get(kind, self._answered if kind.COLUMNS[1:] else self._asked_alone)
        for example, encoded in zip(examples, made(examples), strict=True):
            if isinstance(encoded, Encoded) and kind is not Text:
                try:
                    encoded = self._fitted(example, encoded)
                except TooLong as bad:
                    encoded = bad
                else:
                    if kind is Conversation and self.learn == "everything":
                        encoded.pieces[0]["labels"] = encoded.pieces[0]["input_ids"]
            yield encoded

    def _texts(self, chunk: Sequence[Kind]) -> Iterator[Encoded]:
        """Documents in pieces of at most max_length tokens; none is joined to another, and none is cut."""
        eos = self.tokenizer.eos_token_id
        for ids in self.tokenizer([one.text for one in chunk]).input_ids:
            whole = _array(ids if ids[-1:] == [eos] else [*ids, eos])
            length = self.max_length or len(whole)
            yield Encoded([{"input_ids": whole[at : at + length]} for at in range(0, len(whole), length)])

    def _conversations(self, chunk: Sequence[Kind]) -> Iterator[Encoded | BadRow]:
        for encoded in self._encode(chunk, lambda example: [example.messages], self._learned):
            if isinstance(encoded, BadRow):
                yield encoded
                continue
            ((ids, answers),), unshown = encoded
            labels = numpy.full_like(ids, IGNORED)
            for start, end in answers:
                labels[start:end] = ids[start:end]
            yield Encoded([{"input_ids": ids, "labels": labels}], unshown=unshown)

    def _answered(self, chunk: Sequence[Kind]) -> Iterator[Encoded | BadRow]:
        """Questions with an answer or several, each in a column of its own."""

        def each(example: Kind) -> list[list[dict]]:
            return [[*example.question, answer] for answer in example.answers]

        for example, one in zip(chunk, self._encode(chunk, each, lambda _, answers: answers[-1:]), strict=True):
            if isinstance(one, BadRow):
                yield one
                continue
            encoded, unshown = one
            # A token may span the seam between prompt and answer on one side only: it then belongs to both answers.
            seam = min(start for _, [(start, _)] in encoded)
            answers = [ids[seam : None if self.through_suffix else end] for ids, [(_, end)] in encoded]
            if _alike(answers):
                yield BadRow(f"{_quoted(example)} become the same tokens")
            else:
                columns = dict(zip(example.COLUMNS, [encoded[0][0][:seam], *answers], strict=True))
                yield Encoded([columns | self._numbers(example)], unshown=unshown)

    def _asked_alone(self, chunk: Sequence[Kind]) -> Iterator[Encoded | BadRow]:
        for one in chunk:
            try:
                ids, unshown = self._asked(one.question, one.tools)
                yield Encoded([{"prompt_ids": _array(ids)} | self._numbers(one)], unshown=unshown)
            except BadRow as bad:
                yield bad

    @staticmethod
    def _numbers(example: Kind) -> dict[str, float]:
        return {name: float(getattr(example, name)) for name in example.NUMBERS}

    def prompt_ids(self, messages: list[dict], tools: list[dict] | None = None) -> list[int]:
        """The tokens of what is asked, through the invitation to answer. Raises BadRow."""
        return self._asked(messages, tools)[0]

    def _asked(self, messages: list[dict], tools: list[dict] | None) -> tuple[list[int], tuple[int, ...]]:
        """(tokens, the turns whose reasoning is left out)."""
        template = self._template
        messages, unshown = template.as_shown(messages, ask=True, tools=tools)
        text = template.render(messages, ask=True, tools=tools)
        template.check_shown(messages, text, ask=True, tools=tools)
        typed = template.typed_specials(messages, text, ask=True, tools=tools)
        (tokens,) = self._places.of([text], [typed])
        return list(map(int, tokens.ids)), unshown

    @cached_property
    def _places(self) -> Places:
        return Places(self.tokenizer)

    @cached_property
    def _template(self) -> Template:
        return Template(self.tokenizer)

    def _learned(self, example: Conversation, answers: list) -> list:
        """Of a conversation's answers those that carry loss."""
        turns = [number for number, message in enumerate(example.messages) if message["role"] == "assistant"]
        learned = learned_turns(example, self.learn)
        return [answer for turn, answer in zip(turns, answers, strict=True) if turn in learned]

    def _encode(self, chunk: Sequence[Kind], conversations: Callable, learned: Callable) -> Iterator:
        """For each example the (ids, where its `learned` answers stand) of each of its conversations, and the turns
        whose reasoning is left out; or the BadRow."""
        rendered: list[list[tuple] | BadRow] = []
        for one in chunk:
            try:
                rendered.append([self._rendered(one, messages, learned) for messages in conversations(one)])
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
                encoded.append((_array(tokens.ids), [(start, end) for start, end in answers if end > start]))
            if all(answers for _, answers in encoded):
                yield encoded, texts[0][-1]
            else:
                yield BadRow("an answer has no token of its own")

    def _rendered(self, example: Kind, messages: list[dict], learned: Callable) -> tuple[str, list, list, tuple]:
        """(text, where its learned answers stand, where special tokens were typed, the turns with unshown reasoning)."""
        template, tools = self._template, example.tools
        messages, unshown = template.as_shown(messages, tools=tools)
        text = template.render(messages, tools=tools)
        template.check_shown(messages, text, tools=tools)
        answers = learned(example, template.answers(messages, text, tools))
        return text, answers, template.typed_specials(messages, text, tools=tools), unshown

    def _fitted(self, example: Kind, encoded: Encoded) -> Encoded:
        """Its columns within max_length: the prompt gives way first, then the answer's end. Raises TooLong.

        The prompt loses its start, down to a quarter of max_length: an answer to nothing teaches nothing.
        """
        (columns,), talk = encoded.pieces, isinstance(example, Conversation)
        names = example.COLUMNS
        if talk:
            prompt = int(numpy.argmax(columns["labels"] != IGNORED))
            answer = len(columns["labels"]) - prompt
        else:
            prompt = len(columns[names[0]])
            answer = max((len(columns[name]) for name in names[1:]), default=0)
        length, limit = prompt + answer, self.max_length
        if not limit or length <= limit:
            return encoded
        if self.on_too_long != "truncate":
            raise TooLong(f"{TOO_LONG}: max_length is {limit}")
        kept = max(limit - answer, min(prompt, limit // 4))
        bos = int(kept > 1 and columns[names[0]][0] == self.tokenizer.bos_token_id)

        def cut(ids: Ids) -> Ids:
            return numpy.concatenate([ids[:bos], ids[prompt - kept + bos :]])

        if talk:
            fitted = {key: cut(ids)[:limit] for key, ids in columns.items()}
        else:
            answers = {name: columns[name][: limit - kept] for name in names[1:]}
            if _alike(list(answers.values())):
                raise TooLong(f"{TOO_LONG}: cut to max_length ({limit}), both answers are the same")
            fitted = columns | {names[0]: cut(columns[names[0]])} | answers
        return replace(encoded, pieces=[fitted], cut=length - limit, answer_cut=answer > limit - kept)


def _alike(answers: Sequence[Ids]) -> bool:
    return len(answers) > 1 and all(numpy.array_equal(answers[0], one) for one in answers[1:])


def _quoted(example: Kind) -> str:
    return " and ".join(f'"{name.removesuffix("_ids")}"' for name in example.COLUMNS[1:])


def learned_turns(example: Conversation, learn: str) -> set[int]:
    """The answers that carry loss, by the number of their turn. Raises BadRow where there is none."""
    if learn == "everything" and example.skipped:
        raise BadRow('has an answer with "loss_weight" 0, and data.learn is everything')
    turns = [number for number, message in enumerate(example.messages) if message["role"] == "assistant"]
    learned = {*(turns[-1:] if learn == "last" else turns)} - example.skipped
    if not learned:
        raise BadRow('its last answer has "loss_weight" 0 and data.learn is last: there is nothing to learn')
    return learned


def _array(ids: Sequence[int]) -> Ids:
    return numpy.array(ids, dtype=numpy.int32)
