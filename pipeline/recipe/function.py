"""A function that a recipe names as `path/to/file.py:function`; what is wrong with it is told by its place there."""

import ast
import importlib.util
import json
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os.path import samefile
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.wording import did_you_mean

TOLD = 3
_TRY = f"""
import json, sys
from pipeline.errors import PipelineError
from pipeline.recipe.function import load
try:
    load(*sys.argv[1:])
except PipelineError as error:
    print("\\n" + json.dumps([error.what, error.fix]))
    sys.exit({TOLD})
"""
FIX = "Mend it and run the same command again."


@dataclass(frozen=True)
class Function:
    """Called like the function itself. `key` is the key of the recipe that names it."""

    key: str
    named: str
    function: Callable

    def __call__(self, *given: object, **more: object) -> object:
        try:
            return self.function(*given, **more)
        except Exception as error:
            if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
                raise  # the machine's, not the function's
            raise _raised(self.key, self.named, error) from error


def problem(named: str) -> str | None:
    """What can be told without running the file: the place and what is wrong there, or None."""
    path, _, name = named.rpartition(":")
    try:
        tree = ast.parse(Path(path).read_bytes(), path)
    except FileNotFoundError:
        return f"{path}: no such file."
    except OSError as error:
        return f"{path}: {error.strerror}."
    except SyntaxError as error:
        return f"{path}:{error.lineno or 1}: not valid Python: {error.msg}."
    except ValueError as error:  # a null byte
        return f"{path}: not valid Python: {error}."
    names = set(_names(tree))
    if name in names or names & {"*", "__getattr__"}:
        return None
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    there = f" (there {'is' if len(functions) == 1 else 'are'} {', '.join(functions)})" if functions else ""
    return f"{path}: has no function {name}{did_you_mean(name, functions)}{there}."


def arguments(named: str) -> list[str]:
    """What a reward function has to be given beside prompts and completions: the columns that it reads by name."""
    path, _, name = named.rpartition(":")
    tree = ast.parse(Path(path).read_bytes(), path)
    found = next((node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name), None)
    if found is None:
        return []
    positional = [*found.args.posonlyargs, *found.args.args]
    needed = positional[: len(positional) - len(found.args.defaults)]
    alone = zip(found.args.kwonlyargs, found.args.kw_defaults, strict=True)
    needed += [argument for argument, default in alone if default is None]
    return [one.arg for one in needed if one.arg not in ("prompts", "completions")]


def try_out(named: str, key: str) -> None:
    """Load it in a process of its own: what its file does when it is run (a dtype, threads, memory) stays there.

    Raises PipelineError as `load` does.
    """
    # -P, as in the stage's own process: a file of the user's named like a library must not be taken for it.
    done = subprocess.run([sys.executable, "-P", "-c", _TRY, named, key], capture_output=True, text=True)
    if done.returncode == TOLD:
        raise PipelineError(*json.loads(done.stdout.splitlines()[-1]))


def load(named: str, key: str) -> Function:
    """The function, for which its file is run. Raises PipelineError where there is none."""
    if wrong := problem(named):
        raise PipelineError(f"{key}: {wrong}", FIX)
    path, _, name = named.rpartition(":")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise PipelineError(f"{key}: {path} is no Python file.", FIX)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        found = getattr(module, name)
    except (Exception, SystemExit) as error:
        raise _raised(key, named, error) from error
    if not callable(found):
        raise PipelineError(f"{key}: {named} is no function but {found!r:.60}.", "Name a function of the file.")
    return Function(key, named, found)


def _names(tree: ast.AST) -> Iterator[str]:
    """Every name that may come to stand in the module, however it is given."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.alias):
            yield node.asname or node.name


def _raised(key: str, named: str, error: BaseException) -> PipelineError:
    """By the last line of the function's own file that led there."""
    path = named.rpartition(":")[0]
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if _same(frame.filename, path)]
    place = f"{path}:{lines[-1]}" if lines else named
    return PipelineError(f"{key}: {place}: {type(error).__name__}: {error}", FIX)


def _same(one: str, other: str) -> bool:
    try:
        return samefile(one, other)
    except OSError:  # "<string>", "<frozen importlib._bootstrap>"
        return False
