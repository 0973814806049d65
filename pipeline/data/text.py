"""Text as a stream: decompressed, decoded, without a byte-order mark, every line ended by one line feed."""

import bz2
import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, TextIO

from pipeline.data.files import compression
from pipeline.errors import PipelineError

BLOCK = 1 << 20  # bytes or characters read at once


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

    What goes wrong while it is read becomes a PipelineError: bytes that are not in `encoding`, with
    their line, and a compressed file that is broken or cut short.
    """
    try:
        try:
            with _bytes(path) as stream, io.TextIOWrapper(stream, encoding=encoding) as text:
                yield text
        except UnicodeError:
            name = "UTF-8" if encoding == "utf-8-sig" else encoding
            raise PipelineError(
                f"{place}:{_line_not_decoded(path, encoding)}: not {name} text.",
                "Name the file's encoding as data.encoding in the recipe, or convert the file to UTF-8.",
            ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise PipelineError(
            f"{place}: cannot be read: {getattr(error, 'strerror', None) or error}.",
            "The compressed file is broken or was cut short: get it again." if compression(path) else "",
        ) from None


def _bytes(path: str) -> BinaryIO:
    suffix = compression(path)
    if suffix == ".gz":
        return io.BufferedReader(gzip.open(path), BLOCK)
    if suffix == ".bz2":
        return io.BufferedReader(bz2.open(path), BLOCK)
    if suffix == ".zst":
        import pyarrow

        return io.BufferedReader(pyarrow.input_stream(path, compression="zstd"), BLOCK)
    return open(path, "rb")


def _line_not_decoded(path: str, encoding: str) -> int:
    """The line of the first bytes that cannot be decoded, found in a second pass so that the first is quick."""
    decoder = codecs.getincrementaldecoder(encoding)()
    ends = io.IncrementalNewlineDecoder(None, translate=True)
    line = 1
    with _bytes(path) as stream:
        while True:
            block = stream.read(BLOCK)
            try:
                line += ends.decode(decoder.decode(block, final=not block)).count("\n")
            except UnicodeDecodeError as error:
                good = error.object[: error.start].decode(encoding, "replace")
                return line + ends.decode(good, final=True).count("\n")
            except UnicodeError:
                return line
            if not block:
                return line
