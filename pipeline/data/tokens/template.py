"""Conversations to text by the model's chat template, and where in that text the answers stand."""

import json
import re
import traceback
from bisect import bisect
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from jinja2 import Environment, nodes
from jinja2.exceptions import TemplateError, TemplateSyntaxError
from jinja2.ext import Extension

from pipeline.data.shapes.conversation import REASONING
from pipeline.data.shapes.fields import BadRow
from pipeline.errors import PipelineError

FOLDER = Path(__file__).parent / "templates"

_ASKED, _ANSWERED = "what-is-asked", "what-is-answered"
_ASKS, _ANSWERS = [{"role": "user", "content": _ASKED}], {"role": "assistant", "content": _ANSWERED}
_THOUGHT = "what-is-thought-"
_TALK = "user", "assistant", "user", "assistant"
_BLANK = re.compile(r"\s*")
_TALKS = [[*system, *_TALK[:turns]] for system in ([], ["system"]) for turns in range(1, 5)]


def file_of(template: str) -> Path:
    """The Jinja file of a named template, or the file itself."""
    file = Path(template) if template.endswith((".jinja", ".j2")) else FOLDER / f"{template}.jinja"
    if not file.is_file():
        names = ", ".join(sorted(path.stem for path in FOLDER.glob("*.jinja")))
        raise PipelineError(f"model.template: {template}: no such template.", f"Name one of {names}, or a .jinja file.")
    return file


def named(template: str) -> str:
    """The Jinja source of a named template, or of a file. Raises PipelineError where it is not Jinja."""
    file = file_of(template)
    try:
        source = file.read_text(encoding="utf-8").removesuffix("\n")
        Environment(extensions=["jinja2.ext.loopcontrols", _Generation]).compile(source, raw=True)
    except UnicodeDecodeError:
        raise PipelineError(f"model.template: {file}: is not UTF-8 text.", "Save it as UTF-8.") from None
    except TemplateSyntaxError as error:
        raise _broken(str(file), error) from None
    return source


class _Generation(Extension):
    """The tag with which a template may say what the assistant wrote; transformers knows it, Jinja does not."""

    tags: ClassVar = {"generation"}

    def parse(self, parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _broken(name: str, error: Exception) -> PipelineError:
    """A template that cannot be used, whatever the rows are."""
    line = _line(error)
    where = name if line is None else f"{name}:{line}" if name.endswith((".jinja", ".j2")) else f"{name}, line {line}"
    return PipelineError(f"{where}: {_reason(error)}", "Mend the chat template, or name another in model.template.")


def _reason(error: Exception) -> str:
    """What Jinja says is written for people; of anything else the kind tells more than the words."""
    return str(error.message if isinstance(error, TemplateError) else f"{type(error).__name__}: {error}").rstrip(".")


def _line(error: Exception) -> int | None:
    """The line of the template in which it went wrong."""
    if isinstance(error, TemplateSyntaxError):
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame.lineno for frame in reversed(frames) if frame.filename == "<template>"), None)


SHOWS_TOOLS = "model.template: qwen is one that shows tools"
SHOWS_REASONING = "model.template: qwen3 is one that shows it; else leave it out of the row"


class Template:
    """The chat template of a tokenizer, with what has to be known of it to train: where an answer stops."""

    def __init__(self, tokenizer, name: str = "the model's chat template"):
        self.tokenizer, self.name = tokenizer, name

    def check(self) -> None:
        """Raises PipelineError where the template cannot show even the simplest exchange."""
        self._shown(_ASKS, ask=True)
        _ = self._after_answer

    def render(self, messages: list[dict], *, ask: bool = False, tools: list[dict] | None = None) -> str:
        """`messages` as text; with `ask`, followed by what invites the answer.

        Raises BadRow where the template refuses the messages (a role that it does not know, say).
        """
        try:
            text = self._applied(messages, ask=ask, tools=tools)
        except TemplateError as error:
            hint = f"; {SHOWS_TOOLS}" if any(one["role"] == "tool" for one in messages) else ""
            raise BadRow(f"the chat template refuses it: {error}{hint}") from None
        except Exception as error:  # a template can fail in every way that an expression can
            where = f" in line {line}" if (line := _line(error)) else ""
            raise BadRow(f"the chat template fails on it{where}: {_reason(error)}") from None
        return text if ask or messages[-1]["role"] != "assistant" or self.ends_in_stop else text + self.stop

    def _applied(self, messages: list[dict], *, ask: bool = False, tools: list[dict] | None = None) -> str:
        written = [one | dict.fromkeys(REASONING, one["reasoning"]) if "reasoning" in one else one for one in messages]
        return self.tokenizer.apply_chat_template(written, tools=tools, tokenize=False, add_generation_prompt=ask)

    def _shown(self, messages: list[dict], *, ask: bool = False) -> str:
        """What the template makes of an exchange that every template must be able to show."""
        try:
            return self._applied(messages, ask=ask)
        except Exception as error:  # see render
            raise _broken(self.name, error) from None

    @cached_property
    def _after_answer(self) -> str:
        """What the template writes after an answer that stands last."""
        text = self._shown([*_ASKS, _ANSWERS])
        if _ANSWERED not in text:
            raise PipelineError(f"{self.name}: leaves the assistant's answer out.", "Set model.template.")
        return text.rsplit(_ANSWERED, 1)[1]

    @cached_property
    def ends_in_stop(self) -> bool:
        return self._stop_in_template is not None

    @cached_property
    def _stop_in_template(self) -> str | None:
        return self._stop_in(self._after_answer)

    def _stop_in(self, after: str) -> str | None:
        """The token that ends an answer which `after` follows: of the first special tokens EOS, else the very first.

        EOS behind white space ends the conversation, not the answer: Phi-3 writes it in line after <|end|>.
        """
        found, at = [], None
        for one in self._added.finditer(after):
            if found and one.start() != at:
                break
            found.append(one[0])
            at = one.end()
        return self.tokenizer.eos_token if self.tokenizer.eos_token in found else next(iter(found), None)

    @cached_property
    def _added(self) -> re.Pattern:
        return _any_of({*self.tokenizer.all_special_tokens, *map(str, self.tokenizer.added_tokens_decoder.values())})

    @cached_property
    def stop(self) -> str:
        """The token that ends an answer: the template's own, else EOS, which is then written after the answer."""
        return self._stop_in_template or self.tokenizer.eos_token

    @cached_property
    def _tail(self) -> str:
        """From the end of the answer through the token that ends it."""
        return self._after_answer.split(self.stop, 1)[0] + self.stop if self.ends_in_stop else self.stop

    @cached_property
    def _earlier_tail(self) -> str:
        """The same of an answer that others follow, which may end in a token of its own (gpt-oss); or nothing.

        It is what stands between an answer and the invitation to another one, for what a user's turn begins with is
        no part of the answer.
        """
        try:
            told, asked = (self.render(_ASKS, ask=ask) for ask in (False, True))
            text = self.render([*_ASKS, _ANSWERS], ask=True)
        except BadRow:  # the template does not go on after an answer
            return ""
        between = text.rsplit(_ANSWERED, 1)[-1].removesuffix(asked[_agreed(asked, told) :])
        stop = self._stop_in(between)
        return between.split(stop, 1)[0] + stop if stop else ""

    @cached_property
    def _stop_of_call(self) -> str:
        """The token that ends a turn which calls a tool; it may be another one (gpt-oss)."""
        call = {"type": "function", "function": {"name": "what-is-called", "arguments": {"what": _ANSWERED}}}
        try:
            text = self.render([*_ASKS, {"role": "assistant", "content": "", "tool_calls": [call]}])
        except BadRow:  # the template does not know tools
            return self.stop
        after = text.rsplit(_ANSWERED, 1)[-1]
        # The last one, for the others stand inside the call.
        return self.stop if self.stop in after else (self._added.findall(after) or [self.stop])[-1]

    @property
    def suffix(self) -> str:
        """What the template writes after the token that ends a last answer."""
        return self._after_answer.split(self.stop, 1)[1] if self.ends_in_stop else ""

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
            content, thought = message["content"].strip(), message.get("reasoning", "").strip()
            follows = is_answer and text.startswith(asked)
            first = max(at, _shared(asked, text, thought or content))
            thought_at = text.find(thought, first)
            found, end = _find(message, text, thought_at + len(thought))
            if thought_at < 0:
                raise BadRow(f"the chat template does not show the reasoning of turn {number + 1} as it is written")
            if found < 0:
                raise BadRow(f"the chat template does not show turn {number + 1} ({message['role']}) as it is written")
            at = end
            if is_answer:
                # What stands between the invitation and the answer's own words (an empty thought, say) has to
                # be learned as well: the model must write it when it is asked.
                start = len(asked) if follows else first if thought else found
                spans.append((start, self._answer_end(text, at)))
        return spans

    def _spans(self, messages: list[dict], text: str) -> list[tuple[int, int]] | None:
        """Where the answers stand, if `text` is what was said with the known seams between, and nothing else.

        None where it is not: rendering up to each answer tells it for any template, but takes longer than all else.
        """
        turns = _turns(messages)
        seams = [self._seams.get(pair) for pair in zip([None, *turns], [*turns, None], strict=True)]
        written = [message["content"] for message in messages]
        stripped = [said.strip() for said in written]
        if None in seams or not all(stripped) or any(len(message) > 2 for message in messages):
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
        words = [message.get("reasoning", "").strip(), message["content"].strip(), *_names(message["tool_calls"])]
        at = len(asked) if text.startswith(asked) else -1
        for word in words:
            at = -1 if at < 0 or (found := text.find(word, at)) < 0 else found + len(word)
        end = text.find(self._stop_of_call, at) if at >= 0 else -1
        if end < 0:
            raise BadRow(f"the chat template does not show where the tool call of turn {number + 1} begins and ends")
        return len(asked), end + len(self._stop_of_call)

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
        return _any_of(str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special)

    def _answer_end(self, text: str, at: int) -> int:
        """Where an answer ends whose words end at `at`: behind its stop token, if that comes next."""
        start = _BLANK.match(text, at).end()
        tails = (tail.lstrip() for tail in (self._tail, self.stop, self._earlier_tail))
        return next((start + len(tail) for tail in tails if tail and text.startswith(tail, start)), at)


def _any_of(tokens: Iterable[str]) -> re.Pattern:
    return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or "(?!)")


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
    end = _agreed(asked, text)
    start = max(0, end - len(content))
    while (start := text.find(content[:1], start, end)) >= 0:
        if content.startswith(text[start:end]):
            return start
        start += 1
    return end


def _agreed(one: str, other: str) -> int:
    """With how many letters the two begin alike."""
    return bisect(range(1, len(one) + 1), False, key=lambda length: not other.startswith(one[:length]))


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
