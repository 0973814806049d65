"""YAML whose every key knows its line, so that an error can name the place a value was written."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import yaml

KeyPath = tuple[str, ...]
MOST = 100_000  # values that a document may stand for: aliases of aliases multiply, and every one is looked at


# Signs of YAML's as a Chinese input method types them, which it takes for letters.
_WIDE = {
    "：": "a colon with a space behind it",
    "，": "a comma",
    "｛": "{",
    "｝": "}",
    "［": "[",
    "］": "]",
    "“": '"',
    "”": '"',
}
_WIDE_SIGN = re.compile(f"[{''.join(_WIDE)}]")
_QUOTED_OR_COMMENT = re.compile(r"""'[^']*'|"[^"]*"|(?:^|\s)#.*""")


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 2e-4 as a number; YAML 1.1 wants 2.0e-4 and makes anything less text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


@dataclass
class Source:
    """A parsed document, the place of each of its keys, and what was wrong with the writing itself.

    `places` holds a line number for what stands in the file and the option's text for what came by `--set`,
    or by an option that stands for it.
    """

    value: object
    file: str
    places: dict[KeyPath, int | str] = field(default_factory=dict)
    problems: list[tuple[KeyPath, str]] = field(default_factory=list)

    def mark(self, path: Sequence[object]) -> int | str:
        """Where a key, or the closest key around it, was given."""
        keys = tuple(map(str, path))
        around = (keys[:end] for end in range(len(keys), -1, -1))
        return next((self.places[path] for path in around if path in self.places), 1)

    def line(self, path: Sequence[object]) -> int:
        """The line of a key in the file; 0 for one that came by `--set`."""
        mark = self.mark(path)
        return mark if isinstance(mark, int) else 0

    def place(self, path: Sequence[object]) -> str:
        """`recipes/my.yaml:12`, `--set a.b=1`, or `--processes 2`."""
        mark = self.mark(path)
        return f"{self.file}:{mark}" if isinstance(mark, int) else mark


class Typed(str):
    """An override, `a.b=value`, that was typed as an option of its own: `option` is what was typed."""

    option: str

    def __new__(cls, override: str, option: str) -> "Typed":
        made = super().__new__(cls, override)
        made.option = option
        return made


def load(text: str, file: str) -> Source:
    """Parse a document. What is wrong with it is listed in `problems`; nothing is raised."""
    source = Source(None, file)
    loader = None
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is not None:
            source.places[()] = root.start_mark.line + 1
            _refuse_multiplied(root)
            for path, line in _keys(root, (), frozenset(), source.problems):
                source.places[path] = line
            source.value = loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        source.places[()] = mark.line + 1 if mark else 1
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        if mark and _is_tab(text, mark):
            reason = "there is a tab; use spaces"
        if mark and (found := _last_wide(text.splitlines()[: mark.line + 1])):
            reason += f"; line {found[0]} has {_told(found[1])}"
        source.problems.append(((), f"not valid YAML: {reason}"))
    except _Multiplied as error:
        source.problems.append(((), str(error)))
    except RecursionError:
        source.problems.append(((), "is nested too deeply"))
    except (yaml.YAMLError, ValueError) as error:
        source.problems.append(((), f"not valid YAML: {' '.join(str(error).split())}"))
    finally:
        if loader is not None:
            loader.dispose()
    return source


def set_override(source: Source, text: str) -> None:
    """Put the value of `a.b.c=value` into the document, making the mappings on the way that are not there."""
    option = text.option if isinstance(text, Typed) else f"--set {text}"
    dotted, equals, written = text.partition("=")
    path = tuple(key.strip() for key in dotted.split("."))
    if not equals or not all(path):
        source.places[(option,)] = option
        source.problems.append(((option,), "must look like stages.dpo.train.beta=0.05"))
        return
    parsed = load(written, option)
    for below in [known for known in source.places if known[: len(path)] == path]:
        del source.places[below]
    for end in range(1, len(path) + 1):
        source.places.setdefault(path[:end], option)
    source.problems += [(path + below, problem) for below, problem in parsed.problems]
    source.value = _replaced(source, path, parsed.value)


def _replaced(source: Source, path: KeyPath, value: object) -> object:
    """A copy with one value changed: an anchor may share the original with another part of the document."""

    def put(inside: object, depth: int) -> object:
        if depth == len(path):
            return value
        if inside is not None and not isinstance(inside, dict):
            around = ".".join(path[:depth]) or "the recipe"
            source.problems.append((path, f"{around} is not a mapping, so it has no {path[depth]}"))
            return inside
        inside = inside or {}
        return inside | {path[depth]: put(inside.get(path[depth]), depth + 1)}

    return put(source.value, 0)


class _Multiplied(yaml.YAMLError):
    """A document whose aliases stand for too much."""


def _refuse_multiplied(root: yaml.Node) -> None:
    """Count what the document stands for with every alias written out, each node being looked at only once."""
    counts: dict[int, int] = {}

    def count(node: yaml.Node) -> int:
        if id(node) not in counts:
            counts[id(node)] = 1  # of a node that contains itself, which is refused where it is found
            inside = node.value if isinstance(node, yaml.CollectionNode) else []
            below = (each for item in inside for each in (item if isinstance(item, tuple) else (item,)))
            counts[id(node)] += sum(map(count, below))
        return counts[id(node)]

    if count(root) > MOST:
        raise _Multiplied(
            f"with its aliases (*name) written out it has more than {MOST:,} values, which no recipe needs; "
            "write out what is meant"
        )


def _is_tab(text: str, mark: yaml.Mark) -> bool:
    """Whether reading stopped at a tab, or in a line that is indented with one."""
    lines = text.splitlines()
    before = lines[mark.line][: mark.column + 1] if mark.line < len(lines) else ""
    return before.endswith("\t") or "\t" in before[: len(before) - len(before.lstrip())]


def _last_wide(lines: Sequence[str]) -> tuple[int, str] | None:
    """(line, sign) of the last full-width sign that stands neither in quotes nor in a comment."""
    for number in range(len(lines), 0, -1):
        if found := _WIDE_SIGN.search(_QUOTED_OR_COMMENT.sub("", lines[number - 1])):
            return number, found[0]
    return None


def _told(wide: str) -> str:
    return f"a full-width {wide}, which YAML takes for a letter; write {_WIDE[wide]}"


def _keys(
    node: yaml.Node, path: KeyPath, around: frozenset[int], problems: list[tuple[KeyPath, str]]
) -> Iterator[tuple[KeyPath, int]]:
    """Every key path below a node with its line."""
    if id(node) in around:
        raise yaml.MarkedYAMLError(problem="an anchor that contains itself", problem_mark=node.start_mark)
    around |= {id(node)}
    if isinstance(node, yaml.ScalarNode) and not node.style and node.value[:1] in ("“", "”", "‘"):
        problems.append(
            (path, f'has full-width quotes, which YAML takes for letters; write "{node.value.strip("“”‘’")}"')
        )
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield (*path, str(index)), item.start_mark.line + 1
            if node.flow_style and isinstance(item, yaml.ScalarNode) and not item.style and "，" in item.value:
                problems.append(((*path, str(index)), f"has {_told('，')}, or put the text in quotes"))
            yield from _keys(item, (*path, str(index)), around, problems)
    if not isinstance(node, yaml.MappingNode):
        return
    first: dict[str, int] = {}
    # What `<<` brings in comes first: a key that stands here in full goes before it.
    for key, value in sorted(node.value, key=lambda pair: not _merges(pair[0])):
        name, line = str(key.value), key.start_mark.line + 1
        if _merges(key):
            for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                yield from _keys(merged, path, around, [])
            continue
        yield (*path, name), line
        if not key.style and (wide := _WIDE_SIGN.search(name)):  # it is in no quotes
            problems.append(((*path, name), f"has {_told(wide[0])}"))
        if name in first:
            problems.append(((*path, name), f"duplicate key, already given in line {first[name]}"))
        first.setdefault(name, line)
        yield from _keys(value, (*path, name), around, problems)


def _merges(key: yaml.Node) -> bool:
    return key.tag == "tag:yaml.org,2002:merge"
