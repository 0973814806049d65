"""Text as a stream: decompressed, decoded, without a byte-order mark, every line ended by one line feed."""

import bz2
import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from pipeline.data.read.content import compressed, is_packed, marked, unmarked_utf_16
from pipeline.data.read.files import compression
from pipeline.data.read.likely import SAMPLE, likeliest
from pipeline.errors import PipelineError

BLOCK = 1 << 20  # bytes or characters read at once
_OWN_MARKS = ("utf-16", "utf-32")  # whose decoders drop a byte-order mark themselves
_WESTERN = ("iso8859-1", "iso8859-15", "cp1252")  # in which nobody writes what a letter of UTF-8 reads as: Ã¼ for ü
_TELLING = 4  # letters of a text in any other encoding; so many are UTF-8 by chance in none
_IS_UTF_8, _LEAVE_OUT = "not {} text; it is UTF-8.", "Leave data.encoding (--encoding) out for this file."


def known_encoding(name: str) -> str:
    """The name that Python decodes by. Raises PipelineError for one that it does not know."""
    try:
        io.TextIOWrapper(io.BytesIO(), encoding=name)
        found = codecs.lookup(name).name
    except (LookupError, ValueError):
        raise PipelineError(
            f"data.encoding: {name}: no such encoding.", "Name one that Python knows: utf-8, utf-16, gb18030, cp1252."
        ) from None
    # utf-8-sig drops the byte-order mark that Windows programs put first.
    return "utf-8-sig" if found == "utf-8" else found


@contextmanager
def opened(place: str, path: str, encoding: str) -> Iterator[TextIO]:
    """The text of the file at `path`, which messages call `place`; CRLF and lone CR arrive as LF.

    What the file says of itself goes first: how it is compressed, whatever its name, and a byte-order mark where
    `encoding` is UTF-8. What goes wrong while it is read becomes a PipelineError: bytes that are not in `encoding`,
    with their line, a file that is UTF-8 where another one was named, and a compressed file that is broken or cut
    short.
    """
    packed = compressed(path) or compression(path)
    try:
        if encoding != "utf-8-sig" and (line := _utf_8_from(path, packed, encoding)):
            raise PipelineError(f"{place}:{line}: {_IS_UTF_8.format(encoding)}", _LEAVE_OUT)
        try:
            with _bytes(path, packed) as stream:
                encoding = _begun(place, stream, encoding)
                with io.TextIOWrapper(stream, encoding=encoding) as text:
                    yield text
        except UnicodeError:
            raise _not_decoded(place, path, packed, encoding) from None
    except (OSError, EOFError, zlib.error) as error:
        raise PipelineError(
            f"{place}: cannot be read: {getattr(error, 'strerror', None) or error}.",
            "The compressed file is broken or was cut short: get it again." if packed else "",
        ) from None


def _begun(place: str, stream: io.BufferedReader, encoding: str) -> str:
    """The encoding, with the stream behind a byte-order mark that its decoder would keep."""
    start = stream.peek(4)[:4]
    if is_packed(start):
        raise PipelineError(
            f"{place}: is a workbook (Excel) or another archive, and no text.",
            "Save its sheet as CSV in UTF-8, or unpack it.",
        )
    if encoding == "utf-8-sig":
        if found := unmarked_utf_16(start):
            raise PipelineError(
                f"{place}:1: not UTF-8 text: it looks like UTF-16 without a byte-order mark.", _names(found)
            )
        return marked(start) or encoding
    if not encoding.startswith(_OWN_MARKS) and (found := marked(start)):
        raise PipelineError(f"{place}:1: not {encoding} text; it begins with the mark of {found}.", _LEAVE_OUT)
    if encoding not in _OWN_MARKS and start.startswith(mark := _mark(encoding)):
        stream.read(len(mark))
    return encoding


def _mark(encoding: str) -> bytes:
    """A byte-order mark in an encoding; nothing in one that lacks it."""
    return "\ufeff".encode(encoding, "ignore")


def _names(encoding: str) -> str:
    return (
        f"If so, set data.encoding: {encoding} in the recipe (--encoding {encoding} for `align data check` and `align init`), or "
        "convert the file to UTF-8."
    )


def _bytes(path: str, packed: str) -> io.BufferedReader:
    if packed == ".gz":
        return io.BufferedReader(gzip.open(path), BLOCK)
    if packed == ".bz2":
        return io.BufferedReader(bz2.open(path), BLOCK)
    if packed == ".zst":
        import pyarrow

        return io.BufferedReader(pyarrow.input_stream(path, compression="zstd"), BLOCK)
    return open(path, "rb")


def _utf_8_from(path: str, packed: str, encoding: str) -> int:
    """The line of the first letter that is read wrong, since all of the file is UTF-8; 0 where it is in `encoding`.

    Most encodings take any bytes, and would tell nothing. Looked at until it is known: in a file that is really in
    `encoding`, no further than its first letters that are not ASCII.
    """
    wide, decoder = encoding.startswith(_OWN_MARKS), codecs.getincrementaldecoder("utf-8")()
    line, first, letters = 1, 0, 0
    with _bytes(path, packed) as stream:
        while block := stream.read(BLOCK):
            try:
                text = decoder.decode(block)
            except UnicodeError:
                return 0
            if wide and "\0" in text:  # the empty half of a plain letter
                return 0
            if not text.isascii():
                at = next(number for number, letter in enumerate(text) if not letter.isascii())
                first = first or line + text.count("\n", 0, at)
                letters += sum(not letter.isascii() for letter in text)
            line += text.count("\n")
    if wide:
        return first or 1
    return first if letters >= (1 if encoding in _WESTERN else _TELLING) else 0


def _is_utf_8(sample: bytes) -> bool:
    """Whether it reads as UTF-8, but for a character that its end may have cut."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)
    except UnicodeError:
        return False
    return True


def _not_decoded(place: str, path: str, packed: str, encoding: str) -> PipelineError:
    """Where a file is not in its encoding and, if nobody has named one, which it most likely is in."""
    name = "UTF-8" if encoding == "utf-8-sig" else encoding
    line, sample = _first_not_decoded(path, packed, encoding)
    where = f"{place}:{line}"
    if encoding != "utf-8-sig" and _is_utf_8(sample):
        return PipelineError(f"{where}: {_IS_UTF_8.format(name)}", _LEAVE_OUT)
    if not (found := likeliest(sample)):
        return PipelineError(
            f"{where}: not {name} text.",
            "Name the file's encoding as data.encoding in the recipe, or convert the file to UTF-8.",
        )
    likely, text = found
    first = next((one for one in text.splitlines() if not one.isascii()), text)
    at = max(0, next((n for n, letter in enumerate(first) if not letter.isascii()), 0) - 30)
    reads = f"{likely}, in which it reads: {first[at : at + 80].strip()}"
    if name == "UTF-8":  # nearly always: it stands in the list of messages as it is printed
        return PipelineError(f"{where}: not UTF-8 text. It may be {reads}", _names(likely))
    return PipelineError(f"{where}: not {name} text. It may be {reads}", _names(likely))


def _first_not_decoded(path: str, packed: str, encoding: str) -> tuple[int, bytes]:
    """The line of the first bytes that cannot be decoded, and what follows from there.

    Of UTF-16 and -32 it is all from the first line.

    Found in a second pass so that the first is quick.
    """
    decoder = codecs.getincrementaldecoder(encoding)()
    ends = io.IncrementalNewlineDecoder(None, translate=True)
    line = 1
    with _bytes(path, packed) as stream:
        while True:
            block = stream.read(BLOCK)
            try:
                line += ends.decode(decoder.decode(block, final=not block)).count("\n")
            except UnicodeDecodeError as error:
                if encoding.startswith(_OWN_MARKS):  # in which nearly any bytes are letters for a while
                    break
                good = error.object[: error.start].decode(encoding, "replace")
                bad = error.object.rfind(b"\n", 0, error.start) + 1
                return line + ends.decode(good, final=True).count("\n"), _lines_from(error.object, bad, stream)
            except UnicodeError:  # it lacks the mark that it begins with
                break
            if not block:
                return line, b""
    with _bytes(path, packed) as stream:
        return 1, _lines_from(b"", 0, stream)


def _lines_from(block: bytes, start: int, stream: io.BufferedReader) -> bytes:
    """Some whole lines: half a character at the end would speak against the right encoding."""
    some = block[start : start + SAMPLE]
    if len(some) < SAMPLE:
        some += stream.read(SAMPLE - len(some))
    return some[: some.rfind(b"\n") + 1] or some
