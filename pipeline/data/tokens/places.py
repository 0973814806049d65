"""Texts to tokens, and which of them stand at given characters of the text."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy

Span = tuple[int, int]  # start and end: of characters, or of tokens


class Places:
    """Tokenizes texts whose special tokens are written out.

    A tokenizer is much slower where it has to keep every token's place. Those that work on bytes need not: each
    token's length in bytes is known, and if they add up to the text's, so is each one's place.
    """

    def __init__(self, tokenizer):
        self.tokenizer, self._backend = tokenizer, tokenizer.backend_tokenizer

    def of(self, texts: Sequence[str], typed: Sequence[Sequence[Span]]) -> Iterator["ByBytes | ByTokenizer | SpeltOut"]:
        """The tokens of each text; what is special but was `typed` as text, at these places, is spelled out."""
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = False
        for start in range(0, len(texts), 1000):
            yield from self._some(texts[start : start + 1000], typed[start : start + 1000])

    def _some(self, texts: Sequence[str], typed: Sequence[Sequence[Span]]) -> list:
        found: list = [None] * len(texts)
        if self._lengths is not None:
            easy = [number for number, spans in enumerate(typed) if not spans]
            quick = self._backend.encode_batch_fast([texts[number] for number in easy], add_special_tokens=False)
            for number, encoding in zip(easy, quick, strict=True):
                ids = numpy.array(encoding.ids, dtype=numpy.int32)
                ends = self._lengths[ids].cumsum()
                if len(ids) and ends[-1] == len(texts[number].encode("utf-8", "replace")):
                    found[number] = ByBytes(ids, ends, texts[number])
        rest = [number for number, tokens in enumerate(found) if tokens is None]
        slow = self._backend.encode_batch([texts[number] for number in rest], add_special_tokens=False)
        for number, encoding in zip(rest, slow, strict=True):
            found[number] = self._spelt_out(ByTokenizer(encoding), texts[number], typed[number])
        return found

    def _spelt_out(self, tokens: "ByTokenizer", text: str, typed: Sequence[Span]) -> "ByTokenizer | SpeltOut":
        if not typed:
            return tokens
        inside = {token for start, end in typed for token in range(*tokens.at(start, end))}
        spelled = []
        for number, (token, (start, end)) in enumerate(zip(tokens.ids, tokens.offsets, strict=True)):
            if number in inside and token in self.tokenizer.added_tokens_decoder:
                plain = self.tokenizer(text[start:end], add_special_tokens=False, split_special_tokens=True).input_ids
                spelled += [(each, start, end) for each in plain]
            else:
                spelled.append((token, start, end))
        return SpeltOut(*map(list, zip(*spelled, strict=True)))

    @cached_property
    def _lengths(self) -> numpy.ndarray | None:
        """Each token's length in bytes; None for a tokenizer that does not work on bytes."""
        from tokenizers.decoders import ByteLevel

        if not isinstance(self._backend.decoder, ByteLevel):
            return None
        vocabulary = self._backend.get_vocab(with_added_tokens=True)
        lengths = numpy.zeros(max(vocabulary.values()) + 1, dtype=numpy.int64)
        added = self._backend.get_added_tokens_decoder()
        for token, number in vocabulary.items():
            lengths[number] = len(token.encode()) if number in added else len(token)  # a byte is written as a letter
        return lengths


class ByBytes:
    def __init__(self, ids: numpy.ndarray, ends: numpy.ndarray, text: str):
        self.ids, self._ends, self._text = ids, ends, text

    def at(self, start: int, end: int) -> Span:
        """(first, behind the last) of the tokens that overlap the characters from `start` to `end`."""
        first, last = (len(self._text[:place].encode()) for place in (start, end))
        if last <= first:
            return 0, 0
        return int(numpy.searchsorted(self._ends, first, "right")), int(numpy.searchsorted(self._ends, last)) + 1


class ByTokenizer:
    """The tokenizer is asked about single places: far cheaper than to have all of them told."""

    def __init__(self, encoding):
        self._encoding = encoding
        self.ids = encoding.ids

    @property
    def offsets(self) -> list[Span]:
        return self._encoding.offsets

    def at(self, start: int, end: int) -> Span:
        token_at = self._encoding.char_to_token
        first = next((token for place in range(start, end) if (token := token_at(place)) is not None), None)
        if first is None:
            return 0, 0
        last = next(token for place in range(end - 1, start - 1, -1) if (token := token_at(place)) is not None)
        # Of the tokens that make up one character, it names the first.
        while last + 1 < len(self.ids) and self._overlaps(last + 1, end):
            last += 1
        return first, last + 1

    def _overlaps(self, token: int, end: int) -> bool:
        place = self._encoding.token_to_chars(token)
        return place is not None and place[0] < min(end, place[1])


class SpeltOut:
    """Tokens with their places, in ascending order."""

    def __init__(self, ids: list[int], starts: list[int], ends: list[int]):
        self.ids, self._starts, self._ends = ids, starts, ends

    def at(self, start: int, end: int) -> Span:
        return bisect_left(self._ends, start + 1), bisect_left(self._starts, end)
