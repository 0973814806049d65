"""Conversations to text by the model's chat template, and where in that text the answers stand."""

from functools import cached_property
from os.path import commonprefix
from pathlib import Path

from jinja2.exceptions import TemplateError

from pipeline.data.shape import BadRow
from pipeline.errors import PipelineError

FOLDER = Path(__file__).parent / "templates"

_ASKED, _ANSWERED = "what-is-asked", "what-is-answered"


def named(template: str) -> str:
    """The Jinja source of a named template, or of a file."""
    file = Path(template) if template.endswith((".jinja", ".j2")) else FOLDER / f"{template}.jinja"
    if not file.is_file():
        names = ", ".join(sorted(path.stem for path in FOLDER.glob("*.jinja")))
        raise PipelineError(f"model.template: {template}: no such template.", f"Name one of {names}, or a .jinja file.")
    return file.read_text(encoding="utf-8").removesuffix("\n")


class Template:
    """The chat template of a tokenizer, with what has to be known of it to train: where an answer stops."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def render(self, messages: list[dict], *, ask: bool = False) -> str:
        """`messages` as text; with `ask`, followed by what invites the answer.

        Raises BadRow where the template refuses the messages (a role that it does not know, say).
        """
        try:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)
        except TemplateError as error:
            raise BadRow(f"the model's chat template refuses it: {error}") from None
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

    def answers(self, messages: list[dict], text: str) -> list[tuple[int, int]]:
        """Where in `text`, the rendered `messages`, each answer stands, through its stop token: (start, end)."""
        spans, at = [], 0
        for number, message in enumerate(messages):
            content = message["content"].strip()
            is_answer = message["role"] == "assistant"
            asked = self.render(messages[:number], ask=True) if is_answer else ""
            follows = is_answer and text.startswith(asked)
            found = text.find(content, max(at, _shared(asked, text, content)))
            if found < 0:
                raise BadRow(f"the chat template does not show turn {number + 1} ({message['role']}) as it is written")
            at = found + len(content)
            if is_answer:
                # What stands between the invitation and the answer's own words (an empty thought, say) has to
                # be learned as well: the model must write it when it is asked.
                spans.append((len(asked) if follows else found, at + self._tail_length(text[at:])))
        return spans

    def _tail_length(self, rest: str) -> int:
        """How much of what follows an answer's words belongs to it: through the stop token."""
        blank = len(rest) - len(rest.lstrip())
        tails = (tail.lstrip() for tail in (self._tail, self.stop))
        return next((blank + len(tail) for tail in tails if rest.startswith(tail, blank)), 0)


def _shared(asked: str, text: str, content: str) -> int:
    """Where to look for an answer: behind the invitation to it, as far as the text has that.

    A template may invite with more than it later shows (an empty thought, say); the answer may begin
    with the letters in which the two still agree.
    """
    end = len(commonprefix([asked, text]))  # noqa: RUF071 - by characters is what is meant
    if end == len(asked):
        return end
    overlap = next((n for n in range(min(len(content), end), 0, -1) if text.endswith(content[:n], 0, end)), 0)
    return end - overlap
