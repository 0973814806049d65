"""The tokenizer as llama.cpp has it: byte-level BPE, or SentencePiece-like.

llama.cpp cuts a text before it merges by a rule that it knows by name, `pre`. Which one a tokenizer follows is found by
what it does: its own pre-tokenizer and the known ones cut the same texts.
"""

import json
from collections.abc import Sequence
from functools import cached_property

from tokenizers import Regex, pre_tokenizers

from pipeline.data.tokens.template import Template
from pipeline.errors import PipelineError

_ENGLISH = r"'(?i:[sdmt]|ll|ve|re)"
_LINES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD = r"[^\r\n\p{L}\p{N}]?"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def _llama3(digits: str) -> str:
    return rf"{_ENGLISH}|{_WORD}\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_LINES}"


def _by_case(digits: str, english: str) -> str:
    return (
        rf"{_WORD}{_UPPER}*{_LOWER}+{english}|{_WORD}{_UPPER}+{_LOWER}*{english}"
        rf"|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_LINES}"
    )


# The names are llama.cpp's, in src/llama-vocab.cpp; with each what it cuts by, and whether a piece that is a token as a
# whole is taken as it is, without looking at the merges.
KNOWN: dict[str, tuple[list[str], bool]] = {
    "gpt-2": ([_GPT2], False),
    "qwen2": ([_llama3(r"\p{N}")], False),
    "llama-bpe": ([_llama3(r"\p{N}{1,3}")], True),
    "dbrx": ([_llama3(r"\p{N}{1,3}")], False),
    "smollm": ([r"\p{N}", _GPT2], False),
    "tekken": ([_by_case(r"\p{N}", "")], True),
    "gpt-4o": ([_by_case(r"\p{N}{1,3}", f"(?:{_ENGLISH})?")], False),
}
# Each of these is cut otherwise by some two of the known.
TRIED = (
    "I'm sure THEY'LL say it's fine, don't you? We'VE 1234567 reasons, 3.14159 and 2024-11-24.",
    "def f(x):\n\treturn  x+1  # TODO\n\n\n    y = [1,2,3]\r\n\r\n  ",
    "camelCase HTMLParser XMLHttpRequest iPhone15Pro MacOS",
    "https://example.com/a/b?c=d&e=f#g // and/or \\n ...!!!???",
    "Übermorgen kommt Straße 12a, naïve café; e\u0301te\u0301, “quoted” — dash…",
    "你好,世界!今天是2024年11月24日。こんにちは 안녕하세요 สวัสดี नमस्ते",
    "   leading, trailing   \t\t tabs\u00a0and\u3000wide  spaces   ",
    "Здравствуйте, мир! مرحبا ١٢٣ Ⅷ ½ x² 🙂🙂 👩‍👩‍👧",
    "<|user|>_under_score_ __init__ a--b ''quoted'' 'tis 'Twas O'Neil's",
)


class Vocabulary:
    """What goes into the file of a tokenizer. Raises PipelineError, naming it, for a kind that is not known."""

    def __init__(self, tokenizer, size: int, name: str):
        self.tokenizer, self.size, self.name = tokenizer, size, name
        self._said = json.loads(tokenizer.backend_tokenizer.to_str())
        self._model = self._said["model"]
        if self._model.get("type") != "BPE":
            raise self._unknown(f"its tokenizer is {self._model.get('type')}, not BPE")
        steps = [*_steps(self._said["pre_tokenizer"], "pretokenizers")]
        self.byte_level = any(one["type"] == "ByteLevel" for one in steps)
        if self.byte_level:
            self.pre = self._found_pre()
        elif not (self._model.get("byte_fallback") and self._has_space_marks()):
            raise self._unknown("its tokenizer is neither byte-level nor like SentencePiece")

    def write(self, writer, stops: Sequence[int]) -> None:
        """`stops` are the tokens that end an answer, the trained one first; there are three places for them."""
        from gguf import TokenType

        tokens, types = self._tokens(TokenType)
        writer.add_tokenizer_model("gpt2" if self.byte_level else "llama")
        writer.add_token_list(tokens)
        writer.add_token_types(types)
        if self.byte_level:
            writer.add_tokenizer_pre(self.pre)
            writer.add_token_merges([" ".join(pair) for pair in self._merges])
        else:
            writer.add_tokenizer_pre("default")
            writer.add_token_scores(self._scores(tokens))
            writer.add_add_space_prefix(self.space_before)
        self._write_special(writer, stops)

    @property
    def begins_with_bos(self) -> bool:
        """Whether what the model was trained on begins with BOS: by its template, or of a base by its tokenizer."""
        bos = self.tokenizer.bos_token
        if bos is None:
            return False
        if self.tokenizer.chat_template:
            text = Template(self.tokenizer).render([{"role": "user", "content": "a"}], ask=True)
            return text.startswith(bos) and text.count(bos) == 1  # else it is what begins every turn
        return self.tokenizer("a").input_ids[:1] == [self.tokenizer.bos_token_id]

    @cached_property
    def space_before(self) -> bool:
        """Whether a text's first word gets a space: as its own template, or of a base a plain text, is cut."""
        steps = [*_steps(self._said["normalizer"], "normalizers")]
        if any(one["type"] == "Prepend" for one in steps):
            return True
        marks = [one for one in _steps(self._said["pre_tokenizer"], "pretokenizers") if one["type"] == "Metaspace"]
        scheme = marks[0].get("prepend_scheme", "always") if marks else "never"
        # "first" is only the very first word: behind a special token, with which a template begins, there is none.
        return scheme == "always" or (scheme == "first" and not self.tokenizer.chat_template)

    def _tokens(self, kinds) -> tuple[list[str], list[int]]:
        added = self.tokenizer.added_tokens_decoder
        names = {number: token for token, number in self.tokenizer.get_vocab().items()}
        tokens, types = [], []
        for number in range(self.size):
            token = names.get(number)
            if token is None:  # vocabularies come padded
                tokens.append(f"[PAD{number}]")
                types.append(kinds.UNUSED)
                continue
            tokens.append(token)
            if number in added:
                unknown = token == self._model.get("unk_token") and not self.byte_level
                types.append(
                    kinds.UNKNOWN if unknown else kinds.CONTROL if added[number].special else kinds.USER_DEFINED
                )
            elif not self.byte_level and token.startswith("<0x") and len(token) == 6:
                types.append(kinds.BYTE)
            else:
                types.append(kinds.NORMAL)
        return tokens, types

    @property
    def _merges(self) -> list[Sequence[str]]:
        return [one.split(" ", 1) if isinstance(one, str) else one for one in self._model["merges"]]

    def _scores(self, tokens: Sequence[str]) -> list[float]:
        """SentencePiece joins what makes the piece with the highest score; merges are in the order of these."""
        rank: dict[str, int] = {}
        for number, pair in enumerate(self._merges):
            rank.setdefault("".join(pair), number)
        # What no merge makes is never joined: single letters and bytes, and tokens that are matched as a whole.
        return [-float(rank[token]) if token in rank else -1e6 for token in tokens]

    def _write_special(self, writer, stops: Sequence[int]) -> None:
        tokenizer = self.tokenizer
        for kind, number in zip(("eos", "eot", "eom"), stops, strict=False):
            getattr(writer, f"add_{kind}_token_id")(number)
        for kind in ("bos", "unk", "pad"):
            number = getattr(tokenizer, f"{kind}_token_id")
            if number is not None:
                getattr(writer, f"add_{kind}_token_id")(number)
        writer.add_add_bos_token(self.begins_with_bos)
        writer.add_add_eos_token(False)
        if tokenizer.chat_template:
            writer.add_chat_template(tokenizer.get_chat_template())

    def _found_pre(self) -> str:
        """The known rule that cuts all texts as the tokenizer does."""
        own, alone = self.tokenizer.backend_tokenizer, bool(self._model.get("ignore_merges"))
        odd = [one["type"] for one in _steps(self._said["normalizer"], "normalizers") if one["type"] != "NFC"]
        if odd:
            raise self._unknown(f"its tokenizer changes texts before it cuts them ({', '.join(odd)})")
        cuts = [_pieces(own.pre_tokenizer, text) for text in TRIED]
        best = (len(TRIED) + 1, "", "")
        for name, (patterns, whole) in KNOWN.items():
            if whole != alone:
                continue
            rule = pre_tokenizers.Sequence(
                [
                    *(pre_tokenizers.Split(Regex(one), "isolated") for one in patterns),
                    pre_tokenizers.ByteLevel(False, use_regex=False),
                ]
            )
            unlike = [text for text, pieces in zip(TRIED, cuts, strict=True) if _pieces(rule, text) != pieces]
            if not unlike:
                return name
            best = min(best, (len(unlike), name, unlike[0]))
        nearest = (
            f"; the nearest, {best[1]}, cuts {best[0]} of {len(TRIED)} texts otherwise: {best[2]!r}" if best[1] else ""
        )
        raise self._unknown(f"its tokenizer cuts texts by no rule that is known here ({', '.join(KNOWN)}){nearest}")

    def _has_space_marks(self) -> bool:
        steps = [
            *_steps(self._said["normalizer"], "normalizers"),
            *_steps(self._said["pre_tokenizer"], "pretokenizers"),
        ]
        return any(one["type"] == "Metaspace" or one.get("content") == "▁" for one in steps)

    def _unknown(self, why: str) -> PipelineError:
        return PipelineError(
            f"{self.name}: {why}, so it cannot be written as GGUF.",
            "llama.cpp's own converter knows more: name its checkout, LLAMA_CPP=folder.",
        )


def _steps(said: dict | None, inside: str):
    """The steps of a normalizer or a pre-tokenizer, those of a sequence one by one."""
    if said is None:
        return
    if said["type"] == "Sequence":
        for one in said[inside]:
            yield from _steps(one, inside)
    else:
        yield said


def _pieces(rule, text: str) -> list[str]:
    return [piece for piece, _ in rule.pre_tokenize_str(text)]
