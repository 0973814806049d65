"""Conversations to text by the model's chat template, and where in that text the answers stand."""

import json
import re
from bisect import bisect
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from jinja2 import Environment, nodes
from jinja2.exceptions import TemplateError, TemplateSyntaxError

from pipeline.data.fields import BadRow
from pipeline.errors import PipelineError

FOLDER = Path(__file__).parent / "templates"

_ASKED, _ANSWERED = "what-is-asked", "what-is-answered"
_TALK = "user", "assistant", "user", "assistant"
_BLANK = re.compile(r"\s*")
_TALKS = [[*system, *_TALK[:turns]] for system in ([], ["system"]) for turns in range(1, 5)]


def named(template: str) -> str:
    """The Jinja source of a named template, or of a file."""
    file = Path(template) if template.endswith((".jinja", ".j2")) else FOLDER / f"{template}.jinja"
    if not file.is_file():
        names = ", ".join(sorted(path.stem for path in FOLDER.glob("*.jinja")))
        raise PipelineError(f"model.template: {template}: no such template.", f"Name one of {names}, or a .jinja file.")
    return file.read_text(encoding="utf-8").removesuffix("\n")


SHOWS_TOOLS = "model.template: qwen is one that shows tools"


class Template:
    """The chat template of a tokenizer, with what has to be known of it to train: where an answer stops."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def render(self, messages: list[dict], *, ask: bool = False, tools: list[dict] | None = None) -> str:
        """`messages` as text; with `ask`, followed by what invites the answer.

        Raises BadRow where the template refuses the messages (a role that it does not know, say).
        """
        try:
            text = self.tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=ask)
        except TemplateError as error:
            hint = f"; {SHOWS_TOOLS}" if any(one["role"] == "tool" for one in messages) else ""
            raise BadRow(f"the chat template refuses it: {error}{hint}") from None
        return text if ask or messages[-1]["role"] != "assistant" or self.ends_in_stop else text + self.stop

    @cached_property
    def _after_answer(self) -> str:
        """What the template writes after an answer that stands last."""
        probe = [{"role": "user", "content": _ASKED}, {"role": "assistant", "content": _ANSWERED}]
        text = self.tokenizer.apply_chat_template(probe, tokenize=False)
        if _ANSWERED not in text:
            raise PipelineError("The chat template leaves the assistant's answer out.", "Set model.template.")
        return text.rsplit(_ANSWERED, 1)[1]

    @cached_property
    def ends_in_stop(self) -> bool:
        return self._stop_in_template is not None

    @cached_property
    def _stop_in_template(self) -> str | None:
        specials = {
            *self.tokenizer.all_special_tokens,
            *map(str, self.tokenizer.added_tokens_decoder.values()),
        }
        found = [(self._after_answer.find(token), token) for token in specials if token in self._after_answer]
        return min(found, key=lambda pair: (pair[0], -len(pair[1])))[1] if found else None

    @cached_property
    def stop(self) -> str:
        """The token that ends an answer: the template's own, else EOS, which is then written after the answer."""
        return self._stop_in_template or self.tokenizer.eos_token

    @cached_property
    def _tail(self) -> str:
        """From the end of the answer through the token that ends it."""
        return self._after_answer.split(self.stop, 1)[0] + self.stop if self.ends_in_stop else self.stop

    @property
    def suffix(self) -> str:
        """What the template writes after the token that ends a last answer."""
        return self._after_answer.split(self.stop, 1)[1] if self.ends_in_stop else ""

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
        if tools and self._lacks(text, _names(tools), messages, ask=ask):
            raise BadRow(f'{leaves_out} the tools that "tools" lists; {SHOWS_TOOLS}')
        for number, message in enumerate(messages):
            if calls := message.get("tool_calls"):
                silent = {key: value for key, value in message.items() if key != "tool_calls"}
                others = [*messages[:number], silent, *messages[number + 1 :]]
                if self._lacks(text, _names(calls), others, ask=ask, tools=tools):
                    raise BadRow(f"{leaves_out} the tool call of turn {number + 1} ({', '.join(_names(calls))})")
            elif message["role"] == "tool" and _find(message, text, 0)[0] < 0:
                raise BadRow(f"{leaves_out} what the tool answered in turn {number + 1}")

    def _lacks(self, text: str, words: Sequence[str], others: list[dict], **how) -> bool:
        """Whether the words are not in `text`, or stand there for no reason: `others`, without them, gives the same."""
        if any(word not in text for word in words):
            return True
        try:
            return self.render(others, **how) == text
        except BadRow:
            return False

    def answers(self, messages: list[dict], text: str, tools: list[dict] | None = None) -> list[tuple[int, int]]:
        """Where in `text`, the rendered `messages`, each answer stands, through its stop token: (start, end)."""
        if not tools and (known := self._spans(messages, text)) is not None:
            return known
        spans, at = [], 0
        for number, message in enumerate(messages):
            is_answer = message["role"] == "assistant"
            asked = self.render(messages[:number], ask=True, tools=tools) if is_answer else ""
            if message.get("tool_calls"):
                spans.append(self._calling(message, number, asked, text))
                at = spans[-1][1]
                continue
            content = message["content"].strip()
            follows = is_answer and text.startswith(asked)
            found, end = _find(message, text, max(at, _shared(asked, text, content)))
            if found < 0:
                raise BadRow(f"the chat template does not show turn {number + 1} ({message['role']}) as it is written")
            at = end
            if is_answer:
                # What stands between the invitation and the answer's own words (an empty thought, say) has to
                # be learned as well: the model must write it when it is asked.
                spans.append((len(asked) if follows else found, self._answer_end(text, at)))
        return spans

    def _spans(self, messages: list[dict], text: str) -> list[tuple[int, int]] | None:
        """Where the answers stand, if `text` is what was said with the known seams between, and nothing else.

        None where it is not: rendering up to each answer tells it for any template, but takes longer than all else.
        """
        turns = _turns(messages)
        seams = [self._seams.get(pair) for pair in zip([None, *turns], [*turns, None], strict=True)]
        written = [message["content"] for message in messages]
        stripped = [said.strip() for said in written]
        if None in seams or not all(stripped) or any(message.get("tool_calls") for message in messages):
            return None
        # A template that strips some turns only is not among these: where white space ends would be a guess.
        for words in (written, stripped):
            if "".join(map("".join, zip(seams, [*words, ""], strict=True))) == text:
                return self._between(seams, words, turns, text)
        return None

    def _between(self, seams: list[str], words: list[str], turns: list[str], text: str) -> list[tuple[int, int]]:
        """Where the answers stand in `text`, which is the seams with the words between."""
        invited, spans, at = len(self._seams["user", None]), [], 0
        for seam, said, turn in zip(seams, words, turns, strict=False):
            end = at + len(seam) + len(said)
            if turn in ("assistant", "last"):
                spans.append((at + invited, self._answer_end(text, end - len(said) + len(said.rstrip()))))
            at = end
        return spans

    @cached_property
    def _seams(self) -> dict[tuple[str | None, str | None], str]:
        """What the template writes between two turns, by their roles; None is before the first and after the last.

        Learned from examples. Empty where they do not agree, or where what invites an answer may depend on what
        was said: then no example can tell where an answer begins.
        """
        seams = {}
        if not _invites_alike(self.tokenizer.get_chat_template()):
            return {}
        for roles in _TALKS:
            talk = [{"role": role, "content": f"what-is-said-{number}"} for number, role in enumerate(roles)]
            try:
                text = self.render(talk, ask=roles[-1] == "user")
            except BadRow:  # the template has no words for a system prompt
                continue
            words, turns = r"what-is-said-\d", _turns(talk)
            if re.findall(words, text) != [message["content"] for message in talk]:
                continue  # it writes a system prompt elsewhere
            pairs = zip([None, *turns], [*turns, None], strict=True)
            for pair, seam in zip(pairs, re.split(words, text), strict=True):
                if seams.setdefault(pair, seam) != seam:
                    return {}
        invitation, invited = seams.get(("user", None)), [("user", "assistant"), ("user", "last")]
        shown = invitation is not None and all(seams.get(pair, "").startswith(invitation) for pair in invited)
        return seams if shown else {}

    def _calling(self, message: dict, number: int, asked: str, text: str) -> tuple[int, int]:
        """Where a turn that calls tools stands. Its words are the template's: all that follows the invitation."""
        stop = text.find(self.stop, len(asked))
        words = [message["content"].strip(), *_names(message["tool_calls"])]
        inside = text[len(asked) : stop]
        if stop < 0 or not text.startswith(asked) or any(word not in inside for word in words):
            raise BadRow(f"the chat template does not show where the tool call of turn {number + 1} begins and ends")
        return len(asked), stop + len(self.stop)

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
        spans, again = [], ""
        for piece in re.split(f"([{''.join(tokens)}])", self.render(marked, ask=ask, tools=tools)):
            again += tokens.get(piece, piece)
            if piece in tokens:
                spans.append((len(again) - len(tokens[piece]), len(again)))
        if again != text:
            raise BadRow("has special tokens in its text, which the chat template does not write as they are")
        return spans

    @cached_property
    def _special(self) -> re.Pattern:
        tokens = [str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)")

    def _answer_end(self, text: str, at: int) -> int:
        """Where an answer ends whose words end at `at`: behind its stop token, if that comes next."""
        start = _BLANK.match(text, at).end()
        tails = (tail.lstrip() for tail in (self._tail, self.stop))
        return next((start + len(tail) for tail in tails if text.startswith(tail, start)), at)


def _turns(messages: list[dict]) -> list[str]:
    """The role of each; an answer that stands last is "last", since a template may show a thought only there."""
    roles = [message["role"] for message in messages]
    return [*roles[:-1], "last" if roles[-1] == "assistant" else roles[-1]]


def _invites_alike(template: str) -> bool:
    """Whether what invites an answer is the same whatever was said: the template decides on it by nothing else."""
    try:
        tree = Environment().parse(template)
    except TemplateSyntaxError:  # in Jinja it is known what each part may use, but not in the tags that some add
        return False
    made = {name.name for name in tree.find_all(nodes.Name) if name.ctx != "load"}
    made |= {macro.name for macro in tree.find_all(nodes.Macro)} | {"messages", "tools"}
    made.discard("add_generation_prompt")
    parts = [
        inner for part in tree.body for inner in (part.iter_child_nodes() if isinstance(part, nodes.For) else [part])
    ]
    used = [{name.name for name in part.find_all(nodes.Name)} for part in parts]
    return not any("add_generation_prompt" in names and names & made for names in used)


def _shared(asked: str, text: str, content: str) -> int:
    """Where to look for an answer: behind the invitation to it, as far as the text has that.

    A template may invite with more than it later shows (an empty thought, say); the answer may begin
    with the letters in which the two still agree.
    """
    if text.startswith(asked):
        return len(asked)
    end = bisect(range(1, len(asked) + 1), False, key=lambda length: not text.startswith(asked[:length]))
    start = max(0, end - len(content))
    while (start := text.find(content[:1], start, end)) >= 0:
        if content.startswith(text[start:end]):
            return start
        start += 1
    return end


def _find(message: dict, text: str, start: int) -> tuple[int, int]:
    """(start, end) of a message's words in `text`; some templates write what a tool answered as JSON. -1: nowhere."""
    content = message["content"].strip()
    forms = [content]
    if message["role"] == "tool":
        forms.append(json.dumps(message["content"], ensure_ascii=False))
    for form in forms:
        if (found := text.find(form, start)) >= 0:
            return found, found + len(form)
    return -1, -1


def _names(functions: Sequence[dict]) -> list[str]:
    return [one["function"]["name"] for one in functions]
