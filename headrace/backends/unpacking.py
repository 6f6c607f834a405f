"""Decompresses the body of an answer and converts it to UTF-8. Its first bytes show whether its headers are
right, which they often are not. Labels of charsets are often wrong, too: one counts only once the bytes are
no UTF-8.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

from multidict import CIMultiDictProxy

from headrace.backends.bodies import GZIP, Decoder, encoding_of

CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)
WIDE = ("utf-16", "utf-32")  # charsets whose text may be valid UTF-8 that means something else
MARKS = (b"\xff", b"\xfe")  # how a byte order mark begins
BOMS = ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
LEAST = 3  # bytes that show whether a body is compressed, and in which charset it is


def is_enough(beginning: bytes, headers: CIMultiDictProxy[str]) -> bool:
    """Whether a body's first bytes show what it is. Nearly always one byte does."""
    is_special = "Content-Encoding" in headers or beginning[:1] in (GZIP[:1], *MARKS)
    return len(beginning) >= LEAST or not is_special


class Unpacker:
    """Unpacks one body, which begins with `beginning`. Raises ProviderError for an encoding that was not
    requested. `is_plain`: its pieces need no unpacking.
    """

    def __init__(self, provider: str, headers: CIMultiDictProxy[str], beginning: bytes) -> None:
        self._content_type = headers.get("Content-Type", "")
        encoding = encoding_of(",".join(headers.getall("Content-Encoding", ())), beginning)
        self._decoder = Decoder(provider, encoding) if encoding else None
        self._recoder: Recoder | None = None
        self._is_begun = self._decoder is None
        if self._decoder is None:
            self._recoder = recoder_for(self._content_type, beginning)
        self.is_plain = self._decoder is None and self._recoder is None

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Yield the unpacked bytes. Raises OSError if they are not compressed as the header says."""
        for decoded in (piece,) if self._decoder is None else self._decoder.feed(piece):
            if not self._is_begun:
                self._is_begun, self._recoder = True, recoder_for(self._content_type, decoded)
            yield decoded if self._recoder is None else self._recoder.feed(decoded)

    def end(self) -> bytes:
        """Return what is left at the end of the body. Raises OSError if the compressed data has no end."""
        if self._decoder is not None and not self._decoder.is_whole:
            raise OSError("the compressed body has no end")
        return b"" if self._recoder is None else self._recoder.end()


class Recoder:
    """Converts the pieces of one body."""

    def __init__(self, charset: str) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._other = codecs.getincrementaldecoder(charset)("replace")
        self._is_other = charset.startswith(WIDE)

    def feed(self, piece: bytes) -> bytes:
        if not self._is_other:
            held, _ = self._utf8.getstate()
            try:
                return self._utf8.decode(piece).encode()
            except UnicodeDecodeError:
                self._is_other, piece = True, held + piece
        return self._other.decode(piece).encode(errors="replace")

    def end(self) -> bytes:
        """Return what is left of a character that broke off."""
        decoder = self._other if self._is_other else self._utf8
        return "\ufffd".encode() if decoder.getstate()[0] else b""


def recoder_for(content_type: str, beginning: bytes) -> Recoder | None:
    """A Recoder for a body that begins with these bytes; None: it is in UTF-8, or in no known charset."""
    found = next((charset for bom, charset in BOMS if beginning.startswith(bom)), None)
    match = None if found else CHARSET.search(content_type)
    name = found or (match[1] if match else "utf-8")
    try:
        known = codecs.lookup(name)
    except LookupError:
        return None
    is_text = known._is_text_encoding and known.name not in ("utf-8", "ascii", "utf-8-sig", "utf-7")
    return Recoder(known.name) if is_text else None
