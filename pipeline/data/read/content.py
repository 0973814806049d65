"""What a file is by its first bytes, whatever it is called."""

import codecs
import os
import re
from pathlib import Path

_COMPRESSED = {
    ".gz": re.compile(rb"\x1f\x8b"),
    ".bz2": re.compile(rb"BZh[1-9]1AY&SY"),
    ".zst": re.compile(rb"\x28\xb5\x2f\xfd"),
}
_TABLES = {".parquet": re.compile(rb"PAR1"), ".arrow": re.compile(rb"ARROW1\0\0|\xff{4}")}
_PARQUET_END = b"PAR1"
_MARKS = {  # the longer ones first: that of UTF-32 begins like that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def compressed(path: str) -> str:
    """ ".gz", ".bz2" or ".zst" by the content; nothing for what is none of these."""
    return _by_start(path, _COMPRESSED)


def table(path: str) -> str:
    """ ".parquet" or ".arrow" by the content; nothing for what is neither."""
    found = _by_start(path, _TABLES)
    return "" if found == ".parquet" and not _ends_as_parquet(path) else found


def _ends_as_parquet(path: str) -> bool:
    """A text may begin with the same letters."""
    with Path(path).open("rb") as file:
        file.seek(-len(_PARQUET_END), os.SEEK_END)
        return file.read() == _PARQUET_END


def marked(start: bytes) -> str | None:
    """The encoding that a byte-order mark names; None where there is none, or it is that of UTF-8."""
    return next((encoding for mark, encoding in _MARKS.items() if start.startswith(mark)), None)


def unmarked_utf_16(start: bytes) -> str | None:
    """UTF-16 without a mark, told by the empty halves of plain letters."""
    if len(start) < 4 or not any(start[:4]):
        return None
    if start[1] == start[3] == 0 and start[0] and start[2]:
        return "utf-16-le"
    return "utf-16-be" if start[0] == start[2] == 0 and start[1] and start[3] else None


def is_packed(start: bytes) -> bool:
    """Whether a file is a zip archive, as workbooks (.xlsx) are, or a workbook of the older kind (.xls)."""
    return start[:4] in (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")


def _by_start(path: str, known: dict[str, re.Pattern]) -> str:
    with Path(path).open("rb") as file:
        start = file.read(16)
    return next((suffix for suffix, magic in known.items() if magic.match(start)), "")
