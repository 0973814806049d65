"""The page of the commands and the page of the exit codes."""

import enum
import inspect
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import typer
from typer.models import ArgumentInfo, OptionInfo

from pipeline.cli.main import app
from pipeline.errors import EXIT_CODES
from pipeline.reference.markdown import NOTHING, code, codes, page, table


@dataclass(frozen=True)
class Parameter:
    """One of a command's, as its function declares it."""

    name: str
    hint: object  # its type
    said: ArgumentInfo | OptionInfo
    default: object

    @property
    def is_argument(self) -> bool:
        return isinstance(self.said, ArgumentInfo)

    @property
    def several(self) -> bool:
        return any(typing.get_origin(one) is list for one in _alternatives(self.hint))

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty

    @property
    def shown(self) -> str:
        """As a person writes it."""
        if self.is_argument:
            name = self.name.upper() + ("..." if self.several else "")
            return name if self.required else f"[{name}]"
        first = [self.said.default] if isinstance(self.said.default, str) else []  # where Typer has it
        names = [*first, *(self.said.param_decls or ())] or [f"--{self.name.replace('_', '-')}"]
        return ", ".join(names).replace("/", ", ")


def commands_page() -> str:
    return page(
        "Commands",
        "In a clone `align` is `.venv/bin/align`; most commands are also goals of `make`, which `make` alone lists. Every "
        "command shows this with `--help`. What takes a list is given again for each one. "
        "[How a command ends](exit-codes.md).",
        *(_command(name, function) for name, function in commands(app, "align")),
    )


def commands(group: typer.Typer, name: str) -> Iterator[tuple[str, Callable]]:
    """Every command under a name, with its function."""
    for one in group.registered_commands:
        if one.callback and not one.hidden:
            yield f"{name} {one.name or one.callback.__name__.replace('_', '-')}", one.callback
    for inner in group.registered_groups:
        if inner.typer_instance:
            yield from commands(inner.typer_instance, f"{name} {inner.name}")


def parameters(function: Callable) -> Iterator[Parameter]:
    """Those that a person may give."""
    hints = typing.get_type_hints(function, include_extras=True)
    for name, one in inspect.signature(function).parameters.items():
        hint, *said = (
            typing.get_args(hints[name]) if typing.get_origin(hints[name]) is typing.Annotated else (hints[name],)
        )
        info = next((each for each in said if isinstance(each, ArgumentInfo | OptionInfo)), None)
        if info and not info.hidden:
            yield Parameter(name, hint, info, one.default)


def _command(name: str, function: Callable) -> str:
    told = sorted(parameters(function), key=lambda one: not one.is_argument)
    arguments = [one.shown for one in told if one.is_argument]
    usage = " ".join([name, *arguments, *(["[OPTIONS]"] if len(told) > len(arguments) else [])])
    rows = [[code(one.shown), _type(one.hint), _default(one), _help(one)] for one in told]
    parts = [f"## {name}", inspect.getdoc(function) or "", code(usage)]
    return "\n\n".join([*parts, table(["option", "type", "default", "meaning"], rows)] if rows else parts)


def _alternatives(hint: object) -> list[object]:
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return [one for one in typing.get_args(hint) if one is not type(None)] if union else [hint]


def _type(hint: object) -> str:
    words: dict[object, str] = {int: "a whole number", float: "a number", str: "text", Path: "a path", bool: ""}
    (one,) = _alternatives(hint)
    if typing.get_origin(one) is list:
        return f"a list of {_type(typing.get_args(one)[0]).removeprefix('a ')}"
    if isinstance(one, type) and issubclass(one, enum.Enum):
        return f"one of {codes(each.value for each in one)}"
    return words[one]


def _default(parameter: Parameter) -> str:
    value = parameter.default
    return NOTHING if value in (None, False, inspect.Parameter.empty) else code(str(value))


def _help(parameter: Parameter) -> str:
    return " ".join((parameter.said.help or "").split()) + (" *Required.*" if parameter.required else "")


def exit_codes_page() -> str:
    return page(
        "Exit codes",
        table(["code", "means"], [[str(number), words] for number, words in EXIT_CODES.items()]),
        "`make` passes on only success or failure; `.venv/bin/align run` gives these codes. With a mistake nothing is "
        "changed, and the message says what is wrong, where, and what to do.",
    )
