"""What a file is by its first bytes, whatever it is called; and what text that does not say so most likely is."""

import codecs
import os
import re
from pathlib import Path

# How much of a file is looked at to guess its encoding.
SAMPLE = 1 << 16
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
# Of those that read a text alike, the first is meant; others are too rare to be told from these.
_LIKELY = ["cp1252", "gb18030", "big5", "cp932", "euc_jp", "cp949", "cp1251", "koi8_r", "cp1250", "iso8859_2", "cp1253"]
_LIKELY += ["cp1254", "cp1255", "cp1256", "cp874", "mac_roman"]

_TYPESET = "‘’‚“”„–—…•€«»‹›°§·¿¡©®™\xa0"


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


def likeliest(sample: bytes) -> tuple[str, str] | None:
    """The encoding that bytes which are not UTF-8 most likely are in, and how they read in it; None for no text."""
    if b"\0" in sample:
        return None
    from charset_normalizer import from_bytes

    if (best := from_bytes(sample, cp_isolation=_LIKELY).best()) is None:
        return None
    text = str(best)
    if best.encoding == "mac_roman" and (western := _as_western(sample)):  # which hardly anybody writes any more
        return "cp1252", western
    return next((one for one in _LIKELY if _reads(sample, one, text)), best.encoding), text


def _as_western(sample: bytes) -> str | None:
    """The text in cp1252, if nothing in it is stranger than letters and the signs of typesetting."""
    try:
        text = sample.decode("cp1252")
    except UnicodeError:
        return None
    return text if all(letter.isascii() or letter.isalpha() or letter in _TYPESET for letter in text) else None


def _reads(sample: bytes, encoding: str, text: str) -> bool:
    try:
        return sample.decode(encoding) == text
    except UnicodeError:
        return False


def _by_start(path: str, known: dict[str, re.Pattern]) -> str:
    with Path(path).open("rb") as file:
        start = file.read(16)
    return next((suffix for suffix, magic in known.items() if magic.match(start)), "")
