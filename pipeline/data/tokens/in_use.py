"""Is a chat template in use what it is in training? It is tried out on small talk, before any row."""

import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from difflib import get_close_matches
from typing import Any

from pipeline.data.tokens.places import Places
from pipeline.data.tokens.stops import COMPLETION, COMPLETION_TEXT, PROMPT, PROMPT_TEXT, agreed
from pipeline.data.tokens.template import Template
from pipeline.data.tokens.template_files import FOLDER, MARKER
from pipeline.errors import PipelineError

_RANDOM = re.compile(r"\{[{%][^{}]*(?:\|\s*random\b|\blipsum\s*\()")
_CLOCK = "strftime_now"  # what transformers calls its function in a template
_MIDNIGHT, _SAME_DAY, _LATER = datetime(2024, 1, 1), datetime(2024, 1, 1, 13, 47, 31, 500), datetime(2025, 11, 24)
_REASONS = re.compile("think|thought|reason|analy", re.IGNORECASE)
_THOUGHT = "what-is-thought"
_WORDS = (COMPLETION_TEXT, "Yes", "Тогда")  # an answer may begin with
_ALIKE = 0.8  # of the letters: then a marker is likely another one misspelled
_OTHER = "or name another template in model.template."


def check(template: Template) -> list[str]:
    """What a person should know of the template. Raises PipelineError where training and use would surely differ."""
    _check_steady(template)
    asked, plain = template.render(PROMPT, ask=True), template.render([*PROMPT, COMPLETION])
    invitation = _invitation(template, asked)
    return [
        *_otherwise(template, asked, invitation, plain),
        *_seam(template, asked),
        *_header(asked, invitation, plain),
        *_ends(template),
        *_dated(template),
        *_unknown(template, plain),
    ]


def with_reasoning(template: Template) -> list[str]:
    """What to know of it where rows have reasoning."""
    asked, thinking = template.render(PROMPT, ask=True), _thinking(template)
    if _THOUGHT not in thinking or thinking.startswith(asked):
        return []
    return [_other(_invitation(template, asked), "answers with reasoning", "leave it out of the rows")]


def _invitation(template: Template, asked: str) -> str:
    return asked[agreed(asked, template.render(PROMPT)) :]


def _thinking(template: Template) -> str:
    """An answer with reasoning."""
    return next(template.tried([[*PROMPT, COMPLETION | {"reasoning": _THOUGHT}]]), "")


def _other(invitation: str, what: str, way: str) -> str:
    return f"the chat template asks for an answer with {invitation!r}, which {what} are not trained behind ({way})"


def misspelled(marker: str, vocabulary: Iterable[str]) -> str:
    """The marker that may have been meant by one that is no token: a question in brackets, or nothing."""
    usual = {one for file in FOLDER.glob("*.jinja") for one in MARKER.findall(file.read_text(encoding="utf-8"))}
    close = get_close_matches(marker, {*usual, *filter(MARKER.fullmatch, vocabulary)}, 1, _ALIKE)
    return f" (did you mean {close[0]}?)" if close and close[0] != marker else ""


def _check_steady(template: Template) -> None:
    """Raises PipelineError where one row becomes one thing now and another a moment later."""
    first = _at(template, _MIDNIGHT)
    if first != _at(template, _MIDNIGHT) or _RANDOM.search(template.source):
        raise PipelineError(
            f"{template.name}: writes something else each time: no row would be the same twice.",
            f"Take out what is random, {_OTHER}",
        )
    if first != _at(template, _SAME_DAY):
        raise PipelineError(
            f"{template.name}: writes the time of day ({_CLOCK}), so that a row is never the same twice: its answers "
            "could not be told from what stands around them, and no run could be repeated.",
            f"Leave hours, minutes and seconds out of it, {_OTHER}",
        )


def _dated(template: Template) -> Iterator[str]:
    if _at(template, _MIDNIGHT) != _at(template, _LATER):
        yield f"the chat template writes the date ({_CLOCK}): rows that are prepared on another day differ in it"


def _at(template: Template, moment: datetime) -> list[str]:
    """Small talk as it is written at a moment."""
    talks = (PROMPT, [*PROMPT, COMPLETION], [{"role": "system", "content": "what-is-said"}, *PROMPT])
    clock: dict[str, Any] = {_CLOCK: moment.strftime}
    return list(template.tried(talks, **clock))


def _otherwise(template: Template, asked: str, invitation: str, plain: str) -> Iterator[str]:
    """Answers that do not stand behind what invites them.

    That is meant where the invitation opens the model's thought, or says that there is none. Raises PipelineError else.
    """
    talk = next(template.tried([[*PROMPT, COMPLETION, *PROMPT, COMPLETION]]), asked)
    if not (is_asked := plain.startswith(asked)) and not _REASONS.search(invitation):
        start = _part(asked, plain, len(asked) - len(invitation))
        raise PipelineError(
            f"{template.name}: an answer is asked for with {asked[start:]!r}, but where one is shown it stands behind "
            f"{plain[start : plain.index(COMPLETION_TEXT)]!r}: the model would be trained on the one and asked with "
            "the other.",
            f"Let add_generation_prompt write what stands before an answer, {_OTHER}",
        )
    if not is_asked and _THOUGHT in _thinking(template):
        yield _other(invitation, "answers without reasoning", "give every row its reasoning_content")
    elif not is_asked:
        yield _other(invitation, "answers", "model.template names another")
    elif not talk.startswith(asked):
        yield _other(invitation, "earlier answers of a conversation", "data.learn: last leaves them out")


def _part(asked: str, plain: str, most: int) -> int:
    """Where the two part, or what invites an answer begins; not inside of a marker."""
    start = min(agreed(asked, plain), most)
    opened = asked.rfind("<", 0, start)
    return opened if opened >= 0 and ">" not in asked[opened:start] else start


def _seam(template: Template, asked: str) -> Iterator[str]:
    """Where the tokens of what is asked are not those that an answer is trained behind.

    A space at the end is the cause, most often: in training it becomes part of the answer's first word. Raises
    PipelineError then.
    """
    if asked.endswith(PROMPT_TEXT):  # nothing at all stands between the two, as in the template raw: the rows decide
        return
    shown = [*template.tried([[*PROMPT, COMPLETION | {"content": word}] for word in _WORDS])]
    shown = [text for text in shown if text.startswith(asked)]
    first, *others = Places(template.tokenizer).of([asked, *shown], [[]] * (1 + len(shown)))
    own = list(first.ids)
    joined = [list(one.ids[: len(own)]) != own for one in others]
    joins = f"ends in {asked[-12:]!r}, and the tokenizer joins the end of that"
    if joined and (any(joined) if asked[-1] in " \t" else all(joined) and not asked[-1].isspace()):
        raise PipelineError(
            f"{template.name}: what asks for an answer {joins} to the answer's first word: asked, the model would "
            "see other tokens than in training.",
            f"Write the space at the beginning of the answer instead (' ' + message.content), {_OTHER}",
        )
    if any(joined):
        yield (
            f"what asks for an answer {joins} otherwise where an answer follows: the last token before an answer is "
            "not the same in training and in use (a template without the empty line would not have this)"
        )


def _header(asked: str, invitation: str, plain: str) -> Iterator[str]:
    """Words before an answer that nobody asks with, and that the model has to write itself."""
    before = plain[len(asked) : plain.index(COMPLETION_TEXT)] if plain.startswith(asked) else ""
    if not invitation and re.search(r"\w", before):
        yield (
            f"the chat template does not heed add_generation_prompt: the model learns to write {before!r} before "
            "each answer itself, and its answers begin with it"
        )


def _ends(template: Template) -> Iterator[str]:
    """Earlier answers that end otherwise than the last one."""
    if not next(template.tried([[*PROMPT, COMPLETION, *PROMPT]], ask=True), ""):
        return  # the template does not go on after an answer
    last, earlier = template.tail.strip(), template.earlier_tail.strip()
    if not earlier:
        yield (
            f"the chat template writes no stop token after an earlier answer of a conversation, only after the last "
            f"({last}): where an earlier one ends is not learned (data.learn: last leaves them out)"
        )
    elif last != earlier:
        yield (
            f"the chat template ends the last answer of a conversation in {last} and earlier ones in {earlier}: each "
            "is learned as it stands (data.learn: last leaves earlier ones out)"
        )


def _unknown(template: Template, plain: str) -> Iterator[str]:
    """Markers that are read letter by letter, since the tokenizer does not have them."""
    vocabulary = template.tokenizer.get_vocab()
    there = {
        marker for text in [plain, *template.tried([[*PROMPT, COMPLETION, *PROMPT]])] for marker in MARKER.findall(text)
    }
    unknown = dict.fromkeys(
        marker for marker in [*sorted(there), *MARKER.findall(template.source)] if marker not in vocabulary
    )
    hints = {marker: misspelled(marker, vocabulary) for marker in unknown}
    for marker, hint in hints.items():
        if hint:
            yield f"the chat template writes {marker}{hint}, which is no token of the tokenizer but text to it"
    if plain_text := [marker for marker, hint in hints.items() if marker in there and not hint]:
        yield f"the chat template writes {', '.join(plain_text)} as text: the tokenizer has no such token"
