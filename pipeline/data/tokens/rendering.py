"""What a chat template makes of messages, in whatever way it fails."""

from typing import Any

from jinja2.exceptions import TemplateError

from pipeline.data.shapes.fields import BadRow
from pipeline.data.shapes.turns import REASONING
from pipeline.data.tokens.template_files import broken, line_of, reason_of

SHOWS_TOOLS = "model.template: qwen is one that shows tools"


class Rendering:
    """A tokenizer's chat template as it is, applied to messages."""

    def __init__(self, tokenizer, name: str = "the model's chat template"):
        self.tokenizer, self.name = tokenizer, name

    @property
    def source(self) -> str:
        """Its Jinja."""
        return self.tokenizer.get_chat_template()

    def written(self, messages: list[dict], *, ask: bool = False, **beside: Any) -> str:
        """`messages` as text; with `ask`, followed by what invites the answer. `beside` is what else it may read.

        Raises BadRow where the template refuses the messages (a role that it does not know, say).
        """
        try:
            return self._applied(messages, ask=ask, **beside)
        except TemplateError as error:
            hint = f"; {SHOWS_TOOLS}" if any(one["role"] == "tool" for one in messages) else ""
            raise BadRow(f"the chat template refuses it: {error}{hint}") from None
        except Exception as error:  # a template can fail in every way that an expression can
            where = f" in line {line}" if (line := line_of(error)) else ""
            raise BadRow(f"the chat template fails on it{where}: {reason_of(error)}") from None

    def shown(self, messages: list[dict], *, ask: bool = False) -> str:
        """What it makes of an exchange that every template must be able to show. Raises PipelineError."""
        try:
            return self._applied(messages, ask=ask)
        except Exception as error:  # see written
            raise broken(self.name, error) from None

    def _applied(self, messages: list[dict], *, ask: bool = False, **beside: Any) -> str:
        said = [one | dict.fromkeys(REASONING, one["reasoning"]) if "reasoning" in one else one for one in messages]
        return self.tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=ask, **beside)
