"""The chat templates that a recipe can name: those of this folder, and files."""

import re
import traceback
from pathlib import Path

from jinja2 import Environment, nodes
from jinja2.exceptions import TemplateError, TemplateSyntaxError
from jinja2.ext import Extension

from pipeline.errors import PipelineError

FOLDER = Path(__file__).parent / "templates"
# What a chat template writes as one token where the vocabulary has it: <|im_start|>, <start_of_turn>, ...
MARKER = re.compile(r"<\|[^|<>\s'\"{}]+\|>|<(?:start|end)_of_turn>")


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
        raise broken(str(file), error) from None
    return source


class _Generation(Extension):
    """The tag with which a template may say what the assistant wrote; transformers knows it, Jinja does not."""

    tags = {"generation"}  # noqa: RUF012  (Jinja reads it as it is)

    def parse(self, parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def broken(name: str, error: Exception) -> PipelineError:
    """A template that cannot be used, whatever the rows are."""
    line = line_of(error)
    where = name if line is None else f"{name}:{line}" if name.endswith((".jinja", ".j2")) else f"{name}, line {line}"
    return PipelineError(f"{where}: {reason_of(error)}", "Mend the chat template, or name another in model.template.")


def reason_of(error: Exception) -> str:
    """What Jinja says is written for people; of anything else the kind tells more than the words."""
    return str(error.message if isinstance(error, TemplateError) else f"{type(error).__name__}: {error}").rstrip(".")


def line_of(error: Exception) -> int | None:
    """The line of the template in which it went wrong."""
    if isinstance(error, TemplateSyntaxError):
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame.lineno for frame in reversed(frames) if frame.filename == "<template>"), None)
