"""Prepared rows kept by what they were made from: whoever asks for the same again starts at once."""

import json
import os
import shutil
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import mkdtemp

from pipeline.artifact.attempt import ROWS
from pipeline.data.prepare.account import Account
from pipeline.data.prepare.one_pass import ACCOUNT, Enough, Prepared, prepare
from pipeline.data.read.files import files_of
from pipeline.data.source import Data
from pipeline.data.tokens.encoder import Encoder
from pipeline.errors import MachineError

UNFINISHED = ".unfinished-"


def prepared_once(
    data: Data,
    kind: str,
    encoder: Encoder,
    runs: Path,
    *,
    contents: dict,
    enough: Enough | None = None,
    check: Callable[[Account], None],
    threads: int,
    progress: Callable[[int], None],
) -> Prepared:
    """The prepared rows, made now or found in `runs`.

    `contents` stands for what is in the files. `check` raises where the account is not to be trained on; nothing is
    kept then. Raises MachineError where the disk is full.
    """
    place = runs / ROWS
    folder = place / _key(data, kind, encoder, contents, enough)
    if (folder / ACCOUNT).is_file():
        found = Prepared(folder, kind)
        check(found.account)
        return found
    place.mkdir(parents=True, exist_ok=True)
    unfinished = Path(mkdtemp(prefix=UNFINISHED, dir=place))
    try:
        made = prepare(data, kind, encoder, unfinished, enough=enough, threads=threads, progress=progress)
        check(made.account)
        if not folder.exists():  # a stage beside this one may have been quicker
            os.rename(unfinished, folder)
    except OSError as error:
        free = shutil.disk_usage(place).free >> 20
        raise MachineError(
            f"{place}: the prepared rows cannot be written: {error.strerror or error} ({free} MiB free).",
            "Make room, or choose another --runs folder; `align gc` removes what is not needed.",
        ) from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return Prepared(folder, kind)


def _key(data: Data, kind: str, encoder: Encoder, contents: dict, enough: Enough | None) -> str:
    tokenizer = encoder.tokenizer
    said = {
        "code": _code(),
        "kind": kind,
        "files": [files_of(rows) for rows in data.sources],
        "contents": contents,
        "enough": enough and [enough.pieces, enough.tokens],
        "data": data.model_dump(exclude={"on_bad_row"}),
        "tokenizer": tokenizer.backend_tokenizer.to_str(),
        "template": tokenizer.chat_template,
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "encoder": [encoder.max_length, encoder.through_suffix],
    }
    return sha256(json.dumps(said, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()[:16]


@cache
def _code() -> str:
    """What reads and tokenizes, so that rows prepared by another version are made again."""
    here = Path(__file__).parents[1]  # all of data
    digest = sha256()
    for file in sorted(here.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
