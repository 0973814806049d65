"""SHA-256 of values, files and folders of weights: what a thing is, wherever it lies."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from pipeline.artifact.writing import write_atomically


def canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def fingerprint(inputs: dict) -> str:
    """The name of an artifact: twelve hex digits of the SHA-256 of its inputs."""
    return sha256(canonical(inputs)).hexdigest()[:12]


def file_sha256(path: Path) -> str:
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class Digests:
    """SHA-256 of files, remembered by path, size, mtime and inode, so that a plan need not read them again.

    The process that trains has no file to remember them in and hashes afresh: a cache may be fooled, a result may not.
    """

    def __init__(self, cache: Path | None = None):
        self._cache = cache
        self._known: dict[str, list] = {}
        self._changed = False
        if cache and cache.is_file():
            try:
                self._known = json.loads(cache.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                self._known = {}  # only a cache: it is built again

    def of(self, path: Path) -> str:
        stat = path.stat()
        key, stamp = str(path.resolve()), [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        if (known := self._known.get(key)) and known[:3] == stamp:
            return known[3]
        digest = file_sha256(path)
        self._known[key] = [*stamp, digest]
        self._changed = True
        return digest

    def save(self) -> None:
        if self._cache and self._changed and self._cache.parent.is_dir():
            with suppress(OSError):  # only a cache: the next plan reads the files again
                write_atomically(self._cache, json.dumps(self._known))


def weights_sha256(folder: Path, digests: Digests, also: Sequence[str] = ()) -> str:
    """What a folder of weights *is*: its tensors, tokenizer and template. Where it lies does not matter."""
    named = [
        *folder.glob("*.safetensors"),
        *(folder / n for n in ("tokenizer.json", "chat_template.jinja", *also)),
    ]
    config = json.loads((folder / "config.json").read_text()) if (folder / "config.json").is_file() else {}
    what = {path.name: digests.of(path) for path in named if path.is_file()}
    shape = {key: value for key, value in config.items() if not key.startswith("_") and key != "transformers_version"}
    return sha256(canonical([what, shape])).hexdigest()


def difference(old: object, new: object, at: str = "") -> Iterator[str]:
    """What changed between two inputs, one line a key: `train.learning_rate: 0.0002 -> 0.0001`."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            where = f"{at}.{key}" if at else str(key)
            if key in old and key in new:
                yield from difference(old[key], new[key], where)
            else:
                yield f"{where}: {_short(old[key])} -> left out" if key in old else f"{where}: new, {_short(new[key])}"
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (was, now) in enumerate(zip(old, new, strict=True)):
            yield from difference(was, now, f"{at}[{number}]")
    elif canonical(old) != canonical(new):  # to a digest 1 and 1.0 are two values
        yield f"{at}: {_short(old)} -> {_short(new)}"


def _short(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value):
        return value[:8]
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
