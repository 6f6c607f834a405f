"""Decompresses the body of an answer and converts it to UTF-8. Its first bytes show whether its headers are
right, which they often are not.
"""

from __future__ import annotations

from collections.abc import Iterator

from multidict import CIMultiDictProxy

from headrace.backends.bodies import GZIP, Decoder, encoding_of
from headrace.backends.charsets import MARKS, Recoder, recoder_for

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
