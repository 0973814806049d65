"""Where in a rendered conversation the answers stand."""

import json
import re
from collections.abc import Sequence
from functools import cached_property

from jinja2 import Environment, nodes
from jinja2.exceptions import TemplateSyntaxError

from pipeline.data.shapes.fields import BadRow
from pipeline.data.tokens.stops import Stops, agreed

_TALK = "user", "assistant", "user", "assistant"
_TALKS = [[*system, *_TALK[:turns]] for system in ([], ["system"]) for turns in range(1, 5)]


class Answers(Stops):
    """Finds each answer, from what invites it through the token that ends it."""

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
            found, end = find(message, text, thought_at + len(thought))
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
        known = [seam for seam in seams if seam is not None]
        if len(known) < len(seams) or not all(stripped) or any(len(message) > 2 for message in messages):
            return None
        # A template that strips some turns only is not among these: where white space ends would be a guess.
        for words in (written, stripped):
            if "".join(map("".join, zip(known, [*words, ""], strict=True))) == text:
                return self._between(known, words, turns, text)
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
        seams: dict[tuple[str | None, str | None], str] = {}
        if not _invites_alike(self.source):
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
        """Where a turn that calls tools stands. Its words are the template's: all that follows the invitation.

        Of that it may show less than it asks with (no empty thought, say): then all that follows what it shows.
        """
        thought = message.get("reasoning", "").strip()
        start = _shared(asked, text, thought) if thought else _shared_marks(asked, text)
        at = start
        for word in (thought, message["content"].strip(), *names(message["tool_calls"])):
            at = -1 if at < 0 or (found := text.find(word, at)) < 0 else found + len(word)
        end = text.find(self._stop_of_call, at) if at >= 0 else -1
        if end < 0:
            raise BadRow(f"the chat template does not show where the tool call of turn {number + 1} begins and ends")
        return start, end + len(self._stop_of_call)


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
    end = agreed(asked, text)
    start = max(0, end - len(content))
    while (start := text.find(content[:1], start, end)) >= 0:
        if content.startswith(text[start:end]):
            return start
        start += 1
    return end


def _shared_marks(asked: str, text: str) -> int:
    """How far the two agree, in whole words and marks.

    "<" may begin <think> in the one and <tool_call> in the other.
    """
    end = agreed(asked, text)
    while 0 < end < len(asked) and not text[end - 1].isspace() and text[end - 1] not in ">]":
        end -= 1
    return end


def find(message: dict, text: str, start: int) -> tuple[int, int]:
    """(start, end) of a message's words in `text`; some templates write what a tool answered as JSON. -1: nowhere."""
    content = message["content"].strip()
    forms = [content]
    if message["role"] == "tool":
        forms.append(json.dumps(message["content"], ensure_ascii=False))
    for form in forms:
        if (found := text.find(form, start)) >= 0:
            return found, found + len(form)
    return -1, -1


def names(functions: Sequence[dict]) -> list[str]:
    return [one["function"]["name"] for one in functions]
