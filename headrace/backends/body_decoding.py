"""Decompresses the body of an answer and converts it to UTF-8, within limits: a body may be endless, and
megabytes may inflate to gigabytes. Its first bytes show whether its headers are right, which they often are
not. Labels of charsets are often wrong, too: one counts only once the bytes are no UTF-8.
"""

from __future__ import annotations

import codecs
import re
import zlib
from collections.abc import Iterator

from multidict import CIMultiDictProxy

from headrace.errors import ProviderError

CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)
WIDE = ("utf-16", "utf-32")  # charsets whose text may be valid UTF-8 that means something else
MARKS = (b"\xff", b"\xfe")  # how a byte order mark begins
BOMS = ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
LEAST = 3  # bytes that show whether a body is compressed, and in which charset it is
MAX_BODY = 128 * 2**20  # bytes of an answer that is read at once, such as embeddings
MAX_LISTED = 32 * 2**20  # bytes of a page of a provider's list of models
MAX_ANSWER = 64 * 2**20  # characters of one answer's texts and calls, plus EVENT_COST for each event
EVENT_COST = 64
PIECE = 2**18  # bytes that are decompressed at a time

# The value of Accept-Encoding, and zlib's `wbits` for each encoding: 47 detects a gzip or a zlib header.
ACCEPTED = "gzip, deflate"
WINDOWS = {"gzip": 47, "x-gzip": 47, "deflate": 47}
GZIP = b"\x1f\x8b\x08"  # how a gzip body begins
TEXTS = (b"{", b"[", b"data", b"event", b":")  # how an answer begins that is not compressed
MAX_MEMBERS = 64  # of a gzip body: each has a fixed cost


def encoding_of(header: str, beginning: bytes) -> str:
    """The Content-Encoding of a body that begins with these bytes, which show whether the header is right."""
    if beginning.startswith(GZIP):
        return "gzip"
    return "" if beginning.startswith(TEXTS) else header


class Decoder:
    """Decompresses a body piece by piece, at most PIECE bytes at a time."""

    def __init__(self, provider: str, encoding: str) -> None:
        """`encoding`: the value of Content-Encoding. Raises ProviderError for one that Accept-Encoding did
        not name.
        """
        names = [name.strip().lower() for name in encoding.split(",")]
        names = [name for name in names if name not in ("", "identity")]
        if len(names) > 1 or not set(names) <= set(WINDOWS):
            raise ProviderError(f"{provider} answered in an encoding that was not requested")
        self._unpacker = zlib.decompressobj(WINDOWS[names[0]]) if names else None
        self._num_members, self._is_ended = 1, False
        # the first bytes of "deflate" until its variant is known; None: it is known
        self._beginning = b"" if names == ["deflate"] else None

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Yield the decompressed bytes. Raises OSError if they are not compressed as the header says."""
        if self._unpacker is None:
            yield piece
            return
        if self._is_ended:
            return
        rest = self._detect_deflate(piece)
        while rest:
            decompressed = self._decompress(rest)
            if decompressed:
                yield decompressed
            rest = self._unpacker.unconsumed_tail
            if self._unpacker.eof:
                rest = self._next_member(self._unpacker.unused_data)

    def _next_member(self, rest: bytes) -> bytes:
        """Begin the next member of a gzip body, and return its bytes so far. Other bytes after the end of the
        compressed data are ignored.
        """
        if rest.startswith(GZIP) and self._num_members < MAX_MEMBERS:
            self._unpacker, self._num_members = zlib.decompressobj(WINDOWS["gzip"]), self._num_members + 1
            return rest
        self._is_ended = not GZIP.startswith(rest)  # else more of its beginning may come
        return b""

    def _decompress(self, rest: bytes) -> bytes:
        assert self._unpacker is not None
        try:
            return self._unpacker.decompress(rest, PIECE)
        except zlib.error as exc:
            raise OSError("the body is not compressed as its header says") from exc

    def _detect_deflate(self, piece: bytes) -> bytes:
        """Return the bytes to decompress now. Some servers send "deflate" without zlib's header, which the
        first two bytes show (RFC 1950, section 2.2); until those are there, nothing is decompressed.
        """
        if self._beginning is None:
            return piece
        self._beginning += piece
        if len(self._beginning) < 2:
            return b""
        beginning, self._beginning = self._beginning, None
        if beginning[0] & 0x0F != 8 or int.from_bytes(beginning[:2]) % 31:
            self._unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        return beginning

    @property
    def is_whole(self) -> bool:
        """Whether the compressed data has ended; true for an uncompressed body."""
        return self._unpacker is None or self._unpacker.eof


class Budget:
    """Limits the memory that one answer may take while it is assembled."""

    def __init__(self, provider: str) -> None:
        self._provider, self._left = provider, MAX_ANSWER

    def spend(self, length: int) -> None:
        """Count an event of `length` characters. Raises ProviderError once the budget is used up."""
        self._left -= length + EVENT_COST
        if self._left < 0:
            raise ProviderError(f"{self._provider} sent an answer without an end")


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
    marked = next((charset for bom, charset in BOMS if beginning.startswith(bom)), None)
    match = None if marked else CHARSET.search(content_type)
    name = marked or (match[1] if match else "utf-8")
    try:
        known = codecs.lookup(name)
    except LookupError:
        return None
    is_text = known._is_text_encoding and known.name not in ("utf-8", "ascii", "utf-8-sig", "utf-7")
    return Recoder(known.name) if is_text else None
