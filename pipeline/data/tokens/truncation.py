"""Rows cut to max_length: the prompt gives way first, then the answer's end."""

from dataclasses import dataclass, replace

import numpy

from pipeline.data.shapes.fields import BadRow
from pipeline.data.shapes.kinds import Conversation, Kind
from pipeline.data.tokens.encoded import IGNORED, Encoded, Ids, same_tokens

TOO_LONG = "is too long"  # how every reason begins that max_length is behind


class TooLong(BadRow):
    """A good row that max_length leaves no room for."""


@dataclass(frozen=True)
class Truncation:
    """`max_length` counts tokens; None cuts nothing. `bos` is the token that stays in front of a prompt cut short."""

    max_length: int | None
    on_too_long: str
    bos: int | None

    def of(self, kind: type[Kind], encoded: Encoded) -> Encoded:
        """The columns of a row, in one piece, within max_length. Raises TooLong.

        The prompt loses its start, down to a quarter of max_length: an answer to nothing teaches nothing.
        """
        (columns,) = encoded.pieces
        talk = kind is Conversation
        prompt_name, *answer_names = kind.COLUMNS
        if talk:
            prompt = int(numpy.argmax(columns["labels"] != IGNORED))
            answer = len(columns["labels"]) - prompt
        else:
            prompt = len(columns[prompt_name])
            answer = max((len(columns[name]) for name in answer_names), default=0)
        length, limit = prompt + answer, self.max_length
        if not limit or length <= limit:
            return encoded
        if self.on_too_long != "truncate":
            raise TooLong(f"{TOO_LONG}: max_length is {limit}")
        kept = max(limit - answer, min(prompt, limit // 4))
        bos = int(kept > 1 and columns[prompt_name][0] == self.bos)

        def cut(ids: Ids) -> Ids:
            return numpy.concatenate([ids[:bos], ids[prompt - kept + bos :]])

        if talk:
            fitted = {key: cut(ids)[:limit] for key, ids in columns.items()}
        else:
            answers = {name: columns[name][: limit - kept] for name in answer_names}
            if same_tokens(list(answers.values())):
                raise TooLong(f"{TOO_LONG}: cut to max_length ({limit}), both answers are the same")
            fitted = columns | {prompt_name: cut(columns[prompt_name])} | answers
        return replace(encoded, pieces=[fitted], cut=length - limit, answer_cut=answer > limit - kept)
