"""A recipe as text: block style, each value with where it came from behind it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from textwrap import wrap

import yaml

WIDTH = 110


def recipe_text(head: Iterable[str], tree: Mapping, behind: Mapping[tuple[str, ...], str]) -> str:
    """`head` are the lines of the comment on top, `behind` what stands behind a key, by its path."""
    comments = [f"# {line}".rstrip() for line in head]
    lines = list(_lines(tree, (), behind))
    at = lines.index(next((line for line in lines if line.startswith("stages:")), lines[0]))
    return "\n".join([*comments, *lines[:at], "", *lines[at:]]) + "\n"


def _lines(tree: Mapping, path: tuple[str, ...], behind: Mapping[tuple[str, ...], str]) -> Iterator[str]:
    for key, value in tree.items():
        here, indent = (*path, str(key)), "  " * len(path)
        comment = behind.get(here, "")
        if isinstance(value, Mapping) and value and not _is_small(value, here, behind):
            yield f"{indent}{key}:" + (f"  # {comment}" if comment else "")
            yield from _lines(value, here, behind)
        else:
            text = f"{indent}{key}: {flow(value)}"
            yield f"{text:<44}  # {comment}" if comment else text


def _is_small(value: Mapping, path: tuple[str, ...], behind: Mapping[tuple[str, ...], str]) -> bool:
    """Fits one line, and nothing inside has something to be said of it."""
    return not any(known[: len(path)] == path and known != path for known in behind) and len(flow(value)) < 70


def flow(value: object) -> str:
    """On one line, as YAML that reads back as the same value."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def paragraph(text: str, begin: str = "- ") -> Sequence[str]:
    """Lines of a list in a comment."""
    return wrap(
        text,
        WIDTH - 2,
        initial_indent=f"  {begin}",
        subsequent_indent="  " + " " * len(begin),
        break_long_words=False,
        break_on_hyphens=False,
    )
