"""Artifacts: what a stage leaves behind, found again under the hash of what went into it.

runs/<recipe>/<stage>/<fingerprint>[-attempt]/
    inputs.json     what is trained, hashed: written first
    before.json     the figures of the untrained policy: written before the first step
    checkpoints/    checkpoint-N, while the stage is unfinished and after
    adapter/ or model/
    manifest.json   written last: a folder without one is unfinished

Beside them stand the prepared rows of all recipes, in runs/.data/, see pipeline.data.prepare.cache.
"""

import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from pipeline.errors import PipelineError

MANIFEST = "manifest.json"
ROWS = ".data"
COMPLETE = "complete.json"  # in a checkpoint: the size of every file, written last
SCHEMA = 1


def canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def fingerprint(inputs: dict) -> str:
    """The name of an artifact: twelve hex digits of the SHA-256 of its inputs."""
    return sha256(canonical(inputs)).hexdigest()[:12]


def write_atomically(path: Path, text: str) -> None:
    """A reader sees the old file or the new one, never half of one, whenever the process dies."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp keeps it to its owner
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: object) -> None:
    write_atomically(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


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


@dataclass(frozen=True)
class Attempt:
    """One folder in which a stage was, or is being, run."""

    folder: Path

    @property
    def number(self) -> int:
        return int(self.folder.name.partition("-")[2] or 1)

    @property
    def finished(self) -> bool:
        return (self.folder / MANIFEST).is_file()

    @cached_property
    def manifest(self) -> dict:
        """Raises PipelineError where it was edited or does not belong to this program."""
        path = self.folder / MANIFEST
        fix = f"Remove {self.folder} to train it again, or put the original file back."
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            digest = manifest.pop("sha256")
            if sha256(canonical(manifest)).hexdigest() != digest:
                raise PipelineError(f"{path}: was changed after it was written: its digest does not match.", fix)
            if manifest["schema"] != SCHEMA:
                raise PipelineError(f"{path}: has schema {manifest['schema']}; this version reads {SCHEMA}.", fix)
        except (ValueError, KeyError, TypeError):
            raise PipelineError(f"{path}: is not a manifest of this pipeline.", fix) from None
        return manifest

    @property
    def inputs(self) -> dict | None:
        """What went in, or None where the run died before it could say."""
        try:
            return json.loads((self.folder / "inputs.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    @property
    def output(self) -> Path:
        """adapter/, or model/ after full training."""
        return self.folder / self.manifest["output"]

    def checkpoints(self) -> list[tuple[int, Path]]:
        """The whole checkpoints by step, the last first. A half-written one is not among them."""
        found = []
        for path in self.folder.glob("checkpoints/checkpoint-*"):
            if (step := re.fullmatch(r"checkpoint-(\d+)", path.name)) and _complete(path):
                found.append((int(step[1]), path))
        return sorted(found, reverse=True)

    def check_sizes(self) -> None:
        """A quick look at what the manifest names; `check_content` reads it all."""
        for name, said in self.manifest["files"].items():
            path = self.folder / name
            if not path.is_file() or path.stat().st_size != said["size"]:
                size = f"{path.stat().st_size} bytes" if path.is_file() else "missing"
                self._refuse(name, f"is {size}; the manifest says {said['size']} bytes")

    def check_content(self) -> None:
        self.check_sizes()
        for name, said in self.manifest["files"].items():
            if file_sha256(self.folder / name) != said["sha256"]:
                self._refuse(name, "is not what the manifest says: its digest differs")

    def _refuse(self, name: str, why: str) -> None:
        raise PipelineError(
            f"{self.folder / name}: {why}.",
            f"The artifact is damaged. Remove {self.folder} to train it again.",
        )


def _complete(checkpoint: Path) -> bool:
    try:
        sizes = json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def seal(checkpoint: Path) -> None:
    """Record what a checkpoint consists of; without the record it does not count."""
    sizes = {str(p.relative_to(checkpoint)): p.stat().st_size for p in checkpoint.rglob("*") if p.is_file()}
    for name in sizes:
        with (checkpoint / name).open("rb") as file:
            os.fsync(file.fileno())
    write_json(checkpoint / COMPLETE, sizes)


def write_manifest(folder: Path, manifest: dict) -> None:
    """The last act of a stage. Adds the digests of what it names, and of itself."""
    output = folder / manifest["output"]
    files = {
        str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": file_sha256(path)}
        for path in sorted(output.rglob("*"))
        if path.is_file()
    }
    manifest = {"schema": SCHEMA} | manifest | {"files": files}
    write_json(folder / MANIFEST, manifest | {"sha256": sha256(canonical(manifest)).hexdigest()})


def attempts(stage_folder: Path, name: str) -> list[Attempt]:
    """The attempts at one fingerprint, the first first."""
    found = [Attempt(path) for path in stage_folder.glob(f"{name}*") if re.fullmatch(rf"{name}(-\d+)?", path.name)]
    return sorted(found, key=lambda attempt: attempt.number)


def all_attempts(stage_folder: Path) -> list[Attempt]:
    """Every attempt at a stage, the newest first."""
    found = [Attempt(p) for p in stage_folder.glob("*") if re.fullmatch(r"[0-9a-f]{12}(-\d+)?", p.name)]
    return sorted(found, key=lambda attempt: attempt.folder.stat().st_mtime, reverse=True)


def difference(old: object, new: object, at: str = "") -> Iterator[str]:
    """What changed between two inputs, one line a key: `train.learning_rate: 0.0002 -> 0.0001`."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from difference(old.get(key), new.get(key), f"{at}.{key}" if at else str(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (was, now) in enumerate(zip(old, new, strict=True)):
            yield from difference(was, now, f"{at}[{number}]")
    elif old != new:
        yield f"{at}: {_short(old)} -> {_short(new)}"


def _short(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value):
        return value[:8]
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
