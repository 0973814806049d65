"""Numbers that stand for what a row says, so that rows can be compared and split without being kept."""

import json
from hashlib import sha256

from pipeline.data.example import Example


def sameness(example: Example) -> int:
    """A number that two examples share if they say the same but for case and white space."""
    said = [_folded(getattr(example, name)) for name in example.__slots__]
    return _number(json.dumps(said, ensure_ascii=False, sort_keys=True, default=str))


def asked(example: Example) -> int:
    """A number that depends on the prompt alone, whatever its case and white space: 64 bits."""
    return _number(_folded(example.prompt))


def _folded(value: object) -> object:
    if isinstance(value, str):
        return " ".join(value.casefold().split())
    if isinstance(value, dict):
        return {key: _folded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_folded(one) for one in value]
    return sorted(value) if isinstance(value, frozenset) else value


def _number(said: str) -> int:
    return int.from_bytes(sha256(said.encode("utf-8", "surrogatepass")).digest()[:8])
