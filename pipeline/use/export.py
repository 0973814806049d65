"""Exports: other forms of what was trained. Each is an artifact: whole or not there, proven, kept beside what it came from.

<stage's attempt>/exports/<format>-<hash of its options>/
    the files of the format
    proof.json     how it was compared with what was trained, see pipeline.use.proof
    export.json    written last: what it is, what it came from, its files with their digests

Light: `align status` lists exports too. What writes and runs a format is a Format.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from tempfile import mkdtemp
from typing import Protocol

from filelock import FileLock, Timeout

from pipeline.artifact import sealed
from pipeline.artifact.attempt import Attempt
from pipeline.artifact.digests import Digests, canonical, file_sha256, weights_sha256
from pipeline.artifact.writing import write_json
from pipeline.errors import MachineError, PipelineError
from pipeline.use.subject import Subject

EXPORTS, EXPORT, PROOF = "exports", "export.json", "proof.json"
SCHEMA = 1
_VERSIONS = ("torch", "transformers", "peft", "safetensors", "bitsandbytes", "gguf", "xllamacpp", "onnx", "onnxruntime")


class Format(Protocol):
    """One way to write down what was trained, and to run what was written."""

    name: str
    options: Mapping[str, object]  # what changes the files: it is hashed into the folder's name

    def check(self, subject: Subject) -> None:
        """Raises PipelineError, before anything is written, where the subject has no such form or a package is missing."""

    def size(self, subject: Subject) -> int:
        """Bytes that it will take on the disk, what is only needed on the way included."""

    def write(self, subject: Subject, folder: Path) -> dict:
        """Write the files into `folder`, which is there and empty. Returns what else is to be said in export.json."""

    def prove(self, subject: Subject, folder: Path) -> dict:
        """The proof, see pipeline.use.proof. Its "proven" says whether it holds; "differs" has what does not."""


@dataclass(frozen=True)
class Export:
    """A finished export, in its folder."""

    folder: Path

    @cached_property
    def said(self) -> dict:
        """What export.json says. Raises PipelineError where it was edited or is of another version."""
        fix = f"Remove {self.folder} and export it again."
        return sealed.read(self.folder / EXPORT, SCHEMA, "not the record of an export", fix)

    @cached_property
    def proof(self) -> dict:
        return json.loads((self.folder / PROOF).read_text(encoding="utf-8"))

    @property
    def proven(self) -> bool:
        """False where only --force has kept it."""
        return self.said["proven"]

    @property
    def size(self) -> int:
        return sum(one["size"] for one in self.said["files"].values())

    def damage(self, content: bool = False) -> str | None:
        """What of its files is not as export.json says, or None. Sizes are compared, with `content` digests too."""
        for name, said in self.said["files"].items():
            path = self.folder / name
            if not path.is_file():
                return f"{path} is missing"
            if path.stat().st_size != said["size"]:
                return f"{path} is {path.stat().st_size} bytes, not {said['size']}"
            if content and file_sha256(path) != said["sha256"]:
                return f"{path} is not what was exported: its digest differs"
        return None


def exports_of(attempt: Attempt) -> list[Export]:
    """The finished exports of an attempt, by name."""
    return [Export(path.parent) for path in sorted((attempt.folder / EXPORTS).glob(f"*/{EXPORT}"))]


def place_of(subject: Subject, form: Format, to: Path | None = None) -> Path:
    """Where an export goes. Raises PipelineError for a folder of elsewhere without `to`."""
    if to is not None:
        return to.expanduser().resolve()
    if subject.attempt is None:
        raise PipelineError(
            f"{subject.name}: was not made by this pipeline, so there is no artifact to keep its export with.",
            "Say where it goes: --to folder.",
        )
    return subject.attempt.folder / EXPORTS / f"{form.name}-{_hash(form.options)}"


def export(
    subject: Subject,
    form: Format,
    *,
    to: Path | None = None,
    force: bool = False,
    tell: Callable[[str], None] = lambda text: None,
) -> Export:
    """The export, made now or found. What does not prove itself is not kept, unless by `force`, which marks it.

    Raises PipelineError, and leaves nothing behind.
    """
    if subject.attempt:
        subject.attempt.check_content()
    folder, source = place_of(subject, form, to), _source(subject)
    form.check(subject)
    with _alone_at(folder):
        if found := _found(folder, form, source, tell):
            return found
        room(folder.parent, form.size(subject), f"{form.name} of {subject.name}")
        unfinished = Path(mkdtemp(prefix=_unfinished(folder), dir=folder.parent))
        try:
            os.chmod(unfinished, 0o755)  # mkdtemp keeps it to its owner
            _write(subject, form, source, unfinished, force, tell)
            if folder.is_dir():  # what it takes the place of was damaged, or not proven
                shutil.rmtree(folder)
            os.replace(unfinished, folder)
        except OSError as error:
            free = shutil.disk_usage(folder.parent).free >> 20
            raise MachineError(
                f"{folder}: cannot be written: {error.strerror or error} ({free} MiB free).",
                "Make room, or choose another folder with --to; `align gc` removes what is not needed.",
            ) from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return Export(folder)


def room(folder: Path, needed: int, what: str) -> None:
    """Raises PipelineError where the disk has no room for so many bytes."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise PipelineError(
            f"{folder}: {what} needs about {needed / 1e6:,.1f} MB; {free / 1e6:,.1f} MB are free.",
            "Make room, or choose another folder with --to; `align gc` removes what is not needed.",
        )


def _write(subject: Subject, form: Format, source: dict, folder: Path, force: bool, tell: Callable) -> None:
    started = time.monotonic()
    tell(f"{subject.name}: writing {form.name}")
    more = form.write(subject, folder)
    written = time.monotonic()
    tell(f"{subject.name}: proving {form.name}")
    proof = form.prove(subject, folder)
    if not proof["proven"] and not force:
        raise PipelineError(
            "\n".join([f"{subject.name}: its {form.name} is not what was trained:", *proof["differs"]]),
            "Nothing was kept. --force (FORCE=1) keeps it all the same, marked as not proven.",
        )
    write_json(folder / PROOF, proof)
    files = {
        str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": file_sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    said = {
        "schema": SCHEMA,
        "format": form.name,
        "options": dict(form.options),
        "name": subject.name,
        "from": source,
        "proven": proof["proven"],
        **more,
        "seconds": {"writing": round(written - started, 2), "proving": round(time.monotonic() - written, 2)},
        "versions": _versions(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "files": files,
    }
    sealed.write(folder / EXPORT, said)


def _found(folder: Path, form: Format, source: dict, tell: Callable) -> Export | None:
    """What is there already, if it is this very export and may be used; None where it has to be made (again)."""
    if not (folder / EXPORT).is_file():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise PipelineError(f"{folder}: is there already, and no export.", "Name another folder with --to.")
        return None
    found = Export(folder)
    said = found.said
    if (said["format"], said["options"], said["from"]) != (form.name, dict(form.options), source):
        raise PipelineError(
            f"{folder}: is another export ({said['format']} of {said['name']}).",
            "Name another folder with --to, or remove this one.",
        )
    if damage := found.damage(content=True):
        tell(f"{damage}: it is exported again")
        return None
    if not found.proven:
        tell(f"{folder.name}: what is there was kept by --force and is not proven: it is exported again")
        return None
    return found


def _source(subject: Subject) -> dict:
    """What an export came from: by content, and by name where a name is all that there is."""
    digests = Digests()
    base = subject.base.identity
    if base is None:
        local = Path(subject.base.source)
        base = {"sha256": weights_sha256(local, digests)} if local.is_dir() else {"id": subject.base.source}
    said = {"weights_sha256": weights_sha256(subject.folder, digests), "base": base}
    if subject.attempt:
        manifest = subject.manifest
        said |= {key: manifest[key] for key in ("stage", "fingerprint", "weights_sha256")}
    return said


@contextmanager
def _alone_at(folder: Path) -> Iterator[None]:
    """One export at a time in one place; what a killed one has left beside it is swept away."""
    lock = FileLock(folder.with_name(f".{folder.name}.lock"), timeout=0)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise PipelineError(f"{folder}: another process is exporting to it.", "Wait for it, or stop it.") from None
    except OSError as error:
        raise PipelineError(f"{folder}: {error.strerror}.", "Choose another folder with --to.") from None
    try:
        for left in folder.parent.glob(f"{_unfinished(folder)}*"):
            shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _unfinished(folder: Path) -> str:
    return f".{folder.name}.unfinished-"


def _hash(options: Mapping[str, object]) -> str:
    return sha256(canonical(dict(options))).hexdigest()[:12]


def _versions() -> dict[str, str]:
    found = {}
    for name in ("align-pipeline", *_VERSIONS):
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
