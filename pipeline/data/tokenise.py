"""Examples to token ids, with the labels that carry loss, cut to length with every cut on record."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from pipeline.data.account import Account, Placed
from pipeline.data.shape import BadRow, Conversation, Example, Preference, Prompt
from pipeline.data.template import Template

IGNORED = -100  # the label that PyTorch's cross entropy leaves out
CHUNK = 1000  # rows tokenised in one call: the tokenizer works on them in parallel


@dataclass(frozen=True)
class Tokeniser:
    """Makes the columns that a kind of row is trained as.

    `max_length` counts tokens; None cuts nothing. `through_suffix` keeps what the template writes
    after the stop token: a reward model is asked for its score at the very end of a rendered
    conversation, whereas a policy has finished at the stop token. `learn` is "all" answers of a
    conversation, or the "last".
    """

    tokenizer: object
    max_length: int | None = None
    on_too_long: str = "truncate"
    through_suffix: bool = False
    learn: str = "all"

    def encode(self, placed: Sequence[Placed], kind: str, account: Account) -> tuple[list[Placed], list[dict]]:
        """The examples that can be trained on and their columns; the others are dropped in `account`.

        text: input_ids. conversation: input_ids, labels. preference: prompt_ids, chosen_ids, rejected_ids.
        prompt: prompt_ids.
        """
        encoders = {
            "text": self._texts,
            "conversation": self._conversations,
            "preference": self._preferences,
            "prompt": self._prompts,
        }
        encode = encoders[kind]
        kept, rows = [], []
        for start in range(0, len(placed), CHUNK):
            chunk = placed[start : start + CHUNK]
            for one, columns in zip(chunk, encode(chunk), strict=True):
                try:
                    if isinstance(columns, BadRow):
                        raise columns
                    if kind != "text":  # texts are trained on in pieces, never cut
                        columns = self._fit(one, columns, account)
                except BadRow as bad:
                    account.drop(one.row, str(bad))
                else:
                    kept.append(one)
                    rows.append(columns)
        return kept, rows

    def _texts(self, chunk: Sequence[Placed]) -> Iterator[dict]:
        eos = self.tokenizer.eos_token_id
        for ids in self.tokenizer([one.example.text for one in chunk]).input_ids:
            yield {"input_ids": ids if ids[-1:] == [eos] else [*ids, eos]}

    def _conversations(self, chunk: Sequence[Placed]) -> Iterator[dict | BadRow]:
        for encoded in self._encode(chunk, lambda example: [example.messages], self._learned):
            if isinstance(encoded, BadRow):
                yield encoded
                continue
            ((ids, answers),) = encoded
            labels = [token if learnt else IGNORED for token, learnt in zip(ids, answers, strict=True)]
            if not any(answers):
                yield BadRow("no token of it would carry loss: the chat template leaves the answer out")
            else:
                yield {"input_ids": ids, "labels": labels}

    def _preferences(self, chunk: Sequence[Placed]) -> Iterator[dict | BadRow]:
        def both(example: Preference) -> list[list[dict]]:
            return [
                [*example.messages, {"role": "assistant", "content": answer}]
                for answer in (example.chosen, example.rejected)
            ]

        for encoded in self._encode(chunk, both, lambda example, answers: answers[-1:]):
            if isinstance(encoded, BadRow):
                yield encoded
                continue
            (chosen, in_chosen), (rejected, in_rejected) = encoded
            # A token may span the seam between prompt and answer on one side only: it then belongs to both answers.
            seam = min(in_chosen.index(True), in_rejected.index(True))
            chosen, rejected = (
                [*ids[seam:]] for ids in (self._finish(chosen, in_chosen), self._finish(rejected, in_rejected))
            )
            if chosen == rejected:
                yield BadRow('"chosen" and "rejected" become the same tokens')
            else:
                yield {"prompt_ids": encoded[0][0][:seam], "chosen_ids": chosen, "rejected_ids": rejected}

    def _prompts(self, chunk: Sequence[Placed]) -> Iterator[dict | BadRow]:
        for one in chunk:
            try:
                yield {"prompt_ids": self.prompt_ids(one.example.messages, one.example.tools)}
            except BadRow as bad:
                yield bad

    def prompt_ids(self, messages: list[dict], tools: list[dict] | None = None) -> list[int]:
        """The tokens of what is asked, through the invitation to answer. Raises BadRow."""
        template = self._template
        text = template.render(messages, ask=True, tools=tools)
        template.check_shown(messages, text, ask=True, tools=tools)
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        typed = template.typed_specials(messages, text, ask=True, tools=tools)
        return self._untyped(encoded.input_ids, encoded.offset_mapping, text, typed)[0]

    @cached_property
    def _template(self) -> Template:
        return Template(self.tokenizer)

    def _learned(self, example: Conversation, answers: list) -> list:
        """Of a conversation's answers those that carry loss."""
        turns = [number for number, message in enumerate(example.messages) if message["role"] == "assistant"]
        wanted = turns[-1:] if self.learn == "last" else turns
        learned = [answer for turn, answer in zip(turns, answers, strict=True) if turn in {*wanted} - example.skipped]
        if not learned:
            raise BadRow('its last answer has "loss_weight" 0 and data.learn is last: there is nothing to learn')
        return learned

    def _untyped(self, ids: list[int], offsets: list, text: str, typed: Sequence[tuple[int, int]]) -> tuple[list, list]:
        """The tokens with those spelt out that are special, but were typed as text."""
        if not typed:
            return ids, offsets
        pairs = zip(ids, offsets, _inside(offsets, typed), strict=True)
        spelt = []
        for token, (start, end), inside in pairs:
            if inside and token in self.tokenizer.added_tokens_decoder:
                plain = self.tokenizer(text[start:end], add_special_tokens=False, split_special_tokens=True).input_ids
                spelt += [(each, (start, end)) for each in plain]
            else:
                spelt.append((token, (start, end)))
        return [token for token, _ in spelt], [offset for _, offset in spelt]

    def _finish(self, ids: list[int], in_answer: list[bool]) -> list[int]:
        if self.through_suffix:
            return ids
        return ids[: len(ids) - in_answer[::-1].index(True)]

    def _encode(self, chunk: Sequence[Placed], conversations: Callable, learned: Callable) -> Iterator:
        """For each example the (ids, whether in a `learned` answer) of each of its conversations, or the BadRow."""
        rendered: list[list[tuple] | BadRow] = []
        for one in chunk:
            try:
                rendered.append(
                    [self._rendered(one.example, messages, learned) for messages in conversations(one.example)]
                )
            except BadRow as bad:
                rendered.append(bad)
        flat = [text for texts in rendered if isinstance(texts, list) for text, *_ in texts]
        batch = self.tokenizer(flat, add_special_tokens=False, return_offsets_mapping=True) if flat else None
        at = 0
        for texts in rendered:
            if isinstance(texts, BadRow):
                yield texts
                continue
            encoded = []
            for text, spans, typed in texts:
                ids, offsets = self._untyped(batch["input_ids"][at], batch["offset_mapping"][at], text, typed)
                encoded.append((ids, _inside(offsets, spans)))
                at += 1
            if any(not any(inside) for _, inside in encoded):
                yield BadRow("an answer has no token of its own")
            else:
                yield encoded

    def _rendered(self, example: Example, messages: list[dict], learned: Callable) -> tuple[str, list, list]:
        """(text, where its learned answers stand, where special tokens were typed)."""
        template, tools = self._template, example.tools
        text = template.render(messages, tools=tools)
        template.check_shown(messages, text, tools=tools)
        answers = learned(example, template.answers(messages, text, tools))
        return text, answers, template.typed_specials(messages, text, tools=tools)

    def _fit(self, one: Placed, columns: dict, account: Account) -> dict:
        """`columns` within max_length: the prompt gives way first, then the answer's end.

        The prompt loses its start, down to a quarter of max_length: an answer to nothing teaches nothing.
        """
        if isinstance(one.example, Conversation):
            prompt = next(i for i, label in enumerate(columns["labels"]) if label != IGNORED)
            answer = len(columns["input_ids"]) - prompt
        else:
            prompt = len(columns["prompt_ids"])
            answer = max(len(columns.get("chosen_ids", ())), len(columns.get("rejected_ids", ())))
        length, limit = prompt + answer, self.max_length
        if not limit or length <= limit:
            return columns
        if self.on_too_long != "truncate":
            raise BadRow(f"is {length} tokens long; max_length is {limit}")
        kept = max(limit - answer, min(prompt, limit // 4))
        start = columns.get("prompt_ids", columns.get("input_ids"))
        bos = int(kept > 1 and start[0] == self.tokenizer.bos_token_id)

        def cut(ids: list[int]) -> list[int]:
            return ids[:bos] + ids[prompt - kept + bos :]

        if isinstance(one.example, Conversation):
            fitted = {key: cut(ids)[:limit] for key, ids in columns.items()}
        elif isinstance(one.example, Prompt):
            fitted = {"prompt_ids": cut(columns["prompt_ids"])}
        else:
            answers = {key: columns[key][: limit - kept] for key in ("chosen_ids", "rejected_ids")}
            if answers["chosen_ids"] == answers["rejected_ids"]:
                raise BadRow(f"is {length} tokens long: cut to max_length ({limit}), both answers are the same")
            fitted = {"prompt_ids": cut(columns["prompt_ids"])} | answers
        account.truncated.append((one.row, length - limit))
        account.answers_cut += answer > limit - kept
        return fitted


def _inside(offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> list[bool]:
    """Which tokens overlap a span of characters. Both come in ascending order."""
    inside, which = [], 0
    for start, end in offsets:
        while which < len(spans) and start >= spans[which][1]:
            which += 1
        inside.append(which < len(spans) and end > spans[which][0] and end > start)
    return inside
