"""What the code says of its own names, read as text: nothing is imported for it."""

import ast
import inspect
from functools import cache
from pathlib import Path

ENGINE = Path(__file__).parents[1]


@cache
def _classes(path: Path) -> dict[str, ast.ClassDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def below_fields(path: Path, name: str) -> dict[str, str]:
    """The fields of a class, each with the text that stands below it."""
    found: dict[str, str] = {}
    body = _classes(path)[name].body
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = _text(after)
    return found


def _text(node: ast.AST | None) -> str:
    said = node.value if isinstance(node, ast.Expr) else None
    words = said.value if isinstance(said, ast.Constant) else None
    return " ".join(words.split()) if isinstance(words, str) else ""


def of_class(section: type) -> dict[str, str]:
    """The same of a class at hand, with what it inherits; what it says anew goes before."""
    found: dict[str, str] = {}
    for one in reversed(section.__mro__):
        if one.__module__.startswith("pipeline."):
            own = below_fields(Path(inspect.getfile(one)), one.__name__)
            found |= {field: words or found.get(field, "") for field, words in own.items()}
    return found


def helps(path: Path, name: str) -> dict[str, str]:
    """The fields of a dataclass whose help stands in their metadata, as transformers writes it."""
    found = {}
    for node in _classes(path)[name].body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(node.value, ast.Call):
            said = {word.arg: word.value for word in node.value.keywords}.get("metadata")
            found[node.target.id] = ast.literal_eval(said)["help"] if said else ""
    return found


def of_functions(path: Path) -> dict[str, str]:
    """The functions of a file with the first paragraph of what they say."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return {one.name: " ".join((ast.get_docstring(one) or "").partition("\n\n")[0].split()) for one in functions}
