"""A saved command line of TRL's, taken apart: its arguments as a file of keys, each with its line. Compared with TRL 1.14.2."""

import os
import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.recipe import yaml_lines
from pipeline.recipe.fields import fields_of
from pipeline.stage import specs

COMMANDS = ("sft", "dpo", "reward", "kto", "grpo", "rloo")  # of `trl`, and the names of its scripts
TRL, SCRIPT = "trl", "script"  # the keys that say which of them it was
ENVIRONMENT = "env"  # that of a --config's environment, and of the file's own
_STARTERS = ("accelerate", "torchrun", "deepspeed", "python", "uv", "poetry", "nohup", "time", "exec")
_WRAPPERS = ("nohup", "time", "exec", "env")
_ENDS = re.compile(r"[;|&()<>]+")
_REDIRECTED = re.compile(r"(?<!\S)(?:\d?>>?&?|&>>?|<)\s*[^\s;|&]+")
_SET = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+)|([({@*#?!0-9]))")
_TRUE, _FALSE = ("yes", "true", "t", "y", "1"), ("no", "false", "f", "n", "0")

# The arguments beside those of the trainer's config, each with the kind of its value.
OF_SCRIPTS = {
    **dict.fromkeys("dataset_name dataset_config dataset_train_split dataset_test_split".split(), "str"),
    **dict.fromkeys("dataset_streaming ignore_bias_buffers".split(), "bool"),
}
OF_MODELS = {
    **dict.fromkeys("model_name_or_path model_revision dtype attn_implementation lora_task_type".split(), "str"),
    **dict.fromkeys("bnb_4bit_quant_type bnb_4bit_quant_storage".split(), "str"),
    **dict.fromkeys("use_peft use_rslora use_dora load_in_8bit load_in_4bit use_bnb_nested_quant".split(), "bool"),
    **dict.fromkeys("lora_r lora_alpha".split(), "int"),
    "lora_dropout": "float",
    **dict.fromkeys("lora_target_modules lora_target_parameters lora_modules_to_save".split(), "list"),
}
OF_MIXTURES = {"datasets": "list", "streaming": "bool", "test_split_size": "float"}
OF_REWARDS = {"reward_model_name_or_path": "str", "reward_funcs": "list"}


def arguments(command: str) -> Mapping[str, Collection[str]]:
    """Every argument of one of the commands, and the kinds of value that it takes."""
    beside = OF_SCRIPTS | OF_MODELS | OF_MIXTURES | (OF_REWARDS if command in ("grpo", "rloo") else {})
    return {name: one.kinds for name, one in fields_of(specs()[command].config).items()} | {
        name: (kind,) for name, kind in beside.items()
    }


def is_command(path: Path, text: str) -> bool:
    """Whether a file is no YAML but a command; `text` is what stands in it."""
    if path.suffix in (".yaml", ".yml", ".json"):
        return False
    begins = r"^\s*[$!]?\s*(?:\w+=\S*\s+)*(?:trl|accelerate|torchrun|python[\d.]*|deepspeed|uv)\s+\S"
    return path.suffix in (".sh", ".bash") or re.search(begins, text, re.MULTILINE) is not None


@dataclass
class _Call:
    """One call of a training script: `launched` are the words that its launcher reads."""

    key: str
    name: str
    line: int
    launched: list[tuple[str, int]] = field(default_factory=list)
    given: list[tuple[str, int]] = field(default_factory=list)


@dataclass
class _Shell:
    """What the file has set so far: `exported` are names with their lines, `used` those that were put into a command."""

    known: dict[str, str] = field(default_factory=dict)
    exported: dict[str, int] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    @property
    def environment(self) -> dict[str, int]:
        """What the command itself may have read."""
        return {name: line for name, line in self.exported.items() if name not in self.used}


def read(path: Path, text: str) -> yaml_lines.Source:
    """The arguments as a mapping; those of its --config stand among them, where the command itself says nothing else.

    Raises PipelineError where there is no such command, or more than one.
    """
    shell = _Shell()
    calls = [call for command in _commands(path, text, shell) if (call := _call(command)) and _trains(call)]
    if not calls:
        raise PipelineError(
            f"{path}: has no command that trains with TRL, such as `trl sft --model_name_or_path ...` or `python sft.py ...`.",
            "Save the command that you run in it, as you type it.",
        )
    if len(calls) > 1:
        lines = ", ".join(str(call.line) for call in calls)
        raise PipelineError(
            f"{path}: has several commands that train (lines {lines}).",
            "Save each in a file of its own, and translate them into one chain: align init --from a.sh --from b.sh.",
        )
    (call,) = calls
    for word, line in (*call.launched, *call.given):
        if unknown := _VARIABLE.search(word):
            raise PipelineError(
                f"{path}:{line}: {unknown[0]} is not set in this file, so its value is not known.",
                "Write the value itself.",
            )
    source = yaml_lines.Source({}, str(path), {(): call.line, (call.key,): call.line})
    names: Mapping[str, Collection[str]] = arguments(call.name) if call.name in COMMANDS else {}
    given = _pairs(call.launched, {}) | _pairs(call.given, names)
    said: dict[str, object] = {call.key: f"{call.name}.py" if call.key == SCRIPT else call.name}
    config = given.pop("config", None)
    if config is not None:
        said |= _config(source, path, *config)
    source.value = said | {key: value for key, (value, _) in given.items()}
    source.places |= {(key,): line for key, (_, line) in given.items()}
    if environment := shell.environment:
        before = source.value.get(ENVIRONMENT)
        source.value[ENVIRONMENT] = [
            *(before if isinstance(before, Mapping) else ()),
            *environment,
        ]  # no values: some are keys
        source.places[(ENVIRONMENT,)] = min(environment.values())
    return source


def _commands(path: Path, text: str, shell: _Shell) -> Iterator[list[tuple[str, int]]]:
    """Each command as its words with their lines, variables of the file put in."""
    waiting, begun, words = "", 0, []
    for number, written in enumerate(text.splitlines(), 1):
        line = re.sub(r"^\s*[$!]\s+", "", written) if not waiting else written
        begun = begun if waiting else number
        goes_on = re.search(r"\\\s*$", line) is not None
        waiting += _REDIRECTED.sub("", re.sub(r"\\\s*$", " ", line))
        lexer = shlex.shlex(waiting, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        try:
            words += [(word, begun) for word in lexer]
        except ValueError:  # a quotation that goes on in the next line
            waiting += "\n"
            continue
        waiting = ""
        if not goes_on:
            yield from _split(words, shell)
            words = []
    if waiting.strip():
        raise PipelineError(f"{path}:{begun}: a quotation has no end.", "Close it.")
    yield from _split(words, shell)


def _split(words: Sequence[tuple[str, int]], shell: _Shell) -> Iterator[list[tuple[str, int]]]:
    """Commands that stand in one line; what sets a variable is noted."""
    command: list[tuple[str, int]] = []
    for word, line in [*words, (";", 0)]:
        if not _ENDS.fullmatch(word):
            command.append((_filled(word, shell), line))
            continue
        found = [_SET.fullmatch(one) for one, _ in command if one != "export"]
        if command and all(found):
            shell.known |= {one[1]: one[2] for one in found if one}
            if command[0][0] == "export":
                shell.exported |= {one[1]: command[0][1] for one in found if one}
        elif command:
            shell.exported |= _before(command)
            yield command
        command = []


def _before(command: Sequence[tuple[str, int]]) -> dict[str, int]:
    """What is set in front of a command that trains, for it alone, with its line."""
    if (call := _call(command)) is None or not _trains(call):
        return {}
    found: dict[str, int] = {}
    for word, line in command:
        if one := _SET.fullmatch(word):
            found[one[1]] = line
        elif word not in _WRAPPERS:
            break
    return found


def _filled(word: str, shell: _Shell) -> str:
    """With what the file sets, and what every shell has; another variable stays as it is."""

    def value(found: re.Match) -> str:
        name = found[1] or found[2]
        shell.used.add(name)
        return shell.known.get(name) or (os.environ.get(name) if name in ("HOME", "PWD", "USER") else None) or found[0]

    return _VARIABLE.sub(value, word)


def _trains(call: _Call) -> bool:
    """Whether it is one of TRL's, or a script that takes the same arguments; another script may prepare rows."""
    named = ("--model_name_or_path", "--model-name-or-path", "--dataset_name", "--dataset-name", "--config")
    return call.key == TRL or call.name in COMMANDS or any(word.startswith(named) for word, _ in call.given)


def _call(command: Sequence[tuple[str, int]]) -> _Call | None:
    """What a command trains; None of one that trains nothing."""
    words = list(command)
    while words and (_SET.fullmatch(words[0][0]) or words[0][0] in _WRAPPERS):
        words = words[1:]
    texts = [word for word, _ in words]
    if texts[:2] == ["uv", "run"]:
        words, texts = words[2:], texts[2:]
    if len(texts) > 1 and Path(texts[0]).name == "trl" and not texts[1].startswith("-"):
        if texts[1] in ("env", "vllm-serve", "chat"):
            return None
        return _Call(TRL, texts[1], words[0][1], [], words[2:])
    if not texts or not (texts[0].startswith(_STARTERS) or texts[0].endswith(".py")):
        return None
    for at, (word, line) in enumerate(words):
        module = at and texts[at - 1] == "-m" and word.startswith("trl.scripts.")
        if word.endswith(".py") or module:
            name = word.rpartition(".")[2] if module else Path(word).stem
            return _Call(SCRIPT, name, line, words[1 : at - 1 if module else at], words[at + 1 :])
    return None


def _pairs(words: Sequence[tuple[str, int]], names: Mapping[str, Collection[str]]) -> dict[str, tuple[object, int]]:
    """(value, line) of every argument. A beginning that only one of the names has stands for it, as TRL's parser reads it."""
    found: dict[str, tuple[list[str], int, bool]] = {}
    key = None
    for word, line in words:
        if re.match(r"--?[A-Za-z]", word):
            written, equals, value = word.lstrip("-").partition("=")
            key, off = _named(written.replace("-", "_"), names)
            found[key] = ([value] if equals else [], line, off)
        elif key is not None:
            found[key][0].append(word)
    return {
        key: (not off if not values else _typed(values, names.get(key, ("int", "float"))), line)
        for key, (values, line, off) in found.items()
    }


def _named(key: str, names: Collection[str]) -> tuple[str, bool]:
    """The argument that is meant, and whether it is switched off."""
    if key not in names and key.startswith("no_") and key[3:] in names:
        return key[3:], True
    meant = [name for name in names if name.startswith(key)] if key not in names and key != "config" else []
    return (meant[0] if len(meant) == 1 else key), False


def _typed(values: Sequence[str], kinds: Collection[str]) -> object:
    if len(values) > 1:
        return [_one(value, kinds) for value in values]
    return _one(values[0], kinds)


def _one(word: str, kinds: Collection[str]) -> object:
    if "bool" in kinds and word.lower() in (*_TRUE, *_FALSE):
        return word.lower() in _TRUE
    if ("dict" in kinds or "list" in kinds) and word[:1] in ("{", "["):
        return yaml_lines.load(word, "").value
    if {"int", "float"} & set(kinds) or "list" in kinds:
        for number in (int, float):
            try:
                return number(word)
            except ValueError:
                pass
    if "str" not in kinds and "null" in kinds and word.lower() in ("none", "null"):
        return None
    return word


def _config(source: yaml_lines.Source, command: Path, name: object, line: int) -> dict[str, object]:
    """What the YAML file says that the command names; the places of its keys go into `source`.

    It lies where the command was run, or beside the command's own file.
    """
    place = f"{command}:{line}"
    file = next((one for one in (Path(str(name)), command.parent / str(name)) if one.is_file()), None)
    if file is None:
        raise PipelineError(f"{place}: --config {name}: no such file.", "Put it where the command looks for it.")
    said = yaml_lines.load(file.read_text(encoding="utf-8-sig"), str(file))
    if said.problems or not isinstance(said.value, dict):
        where, what = said.problems[0] if said.problems else ((), "is no mapping of keys.")
        raise PipelineError(f"{said.place(where)}: {what}", "Mend that file first.")
    source.places |= {key: f"{file.name}:{mark}" for key, mark in said.places.items() if key}
    return said.value
