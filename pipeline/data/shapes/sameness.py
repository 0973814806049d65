"""Numbers that stand for what a row says, so that rows can be compared and split without being kept."""

import json
from collections.abc import Iterator
from hashlib import sha256

from pipeline.data.shapes.kinds import Kind


def sameness(said: str) -> int:
    """A number that two examples share if what is `said` in them is the same but for case and white space."""
    return _number(said)


def prompt_hash(example: Kind) -> int:
    """A number that depends on the prompt alone, whatever its case and white space: 64 bits."""
    return _number(example.prompt)


def said(example: Kind) -> str:
    """All that it says, in one text."""
    return " \0 ".join(_said(example))


def _said(example: Kind) -> Iterator[str]:
    for name in example.__slots__:
        value = getattr(example, name)
        if name == "messages":
            for message in value:
                yield message["role"]
                yield message["content"]
                if len(message) > 2:
                    yield _as_json(message)
        else:
            yield value if isinstance(value, str) else _as_json(value) if value else ""


def _as_json(value: object) -> str:
    value = sorted(value) if isinstance(value, frozenset) else value
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def _number(said: str) -> int:
    folded = " ".join(said.casefold().split())
    return int.from_bytes(sha256(folded.encode("utf-8", "surrogatepass")).digest()[:8])
