"""Bodies within bounds: a provider may send without an end, or a megabyte that unpacks to gigabytes."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from headrace.errors import ProviderError

MAX_BODY = 128 * 2**20  # bytes of an answer that is read as a whole: JSON, embeddings
MAX_LISTED = 32 * 2**20  # bytes of a page of a provider's list of models
MAX_ANSWER = 64 * 2**20  # characters of one answer's texts and calls, and EVENT_COST for each of its events
EVENT_COST = 64
PIECE = 2**18  # bytes that are decompressed at a time

# what is asked for, and the zlib window that reads it: 47 takes gzip and zlib alike
ACCEPTED = "gzip, deflate"
WINDOWS = {"gzip": 47, "x-gzip": 47, "deflate": 47}


class Decoder:
    """Undoes a body's Content-Encoding piece by piece, never more than PIECE bytes at a time."""

    def __init__(self, provider: str, encoding: str) -> None:
        """Raises ProviderError for an encoding that was not asked for."""
        names = [name.strip().lower() for name in encoding.split(",")]
        names = [name for name in names if name not in ("", "identity")]
        if len(names) > 1 or not set(names) <= set(WINDOWS):
            raise ProviderError(f"{provider} answered in an encoding that it was not asked for")
        self._unpacker = zlib.decompressobj(WINDOWS[names[0]]) if names else None
        self._begun = b"" if names == ["deflate"] else None  # as long as it is not known which deflate it is

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """What the piece holds. Raises OSError for what is not compressed as it says."""
        if self._unpacker is None:
            yield piece
            return
        rest = self._recognised(piece)
        while rest:
            found = self._unpacked(rest)
            if found:
                yield found
            rest = self._unpacker.unconsumed_tail
            if self._unpacker.eof:
                return  # what follows the compressed body is no part of it

    def _unpacked(self, rest: bytes) -> bytes:
        assert self._unpacker is not None
        try:
            return self._unpacker.decompress(rest, PIECE)
        except zlib.error as exc:
            raise OSError("the body is not compressed as its header says") from exc

    def _recognised(self, piece: bytes) -> bytes:
        """What may be unpacked now. Some mean deflate without zlib's header: the first two bytes tell."""
        if self._begun is None:
            return piece
        self._begun += piece
        if len(self._begun) < 2:
            return b""
        begun, self._begun = self._begun, None
        if begun[0] & 0x0F != 8 or int.from_bytes(begun[:2]) % 31:  # RFC 1950
            self._unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        return begun

    @property
    def is_whole(self) -> bool:
        """Whether a compressed body has come to its own end."""
        return self._unpacker is None or self._unpacker.eof


class Budget:
    """What one answer may take of memory while it is put together."""

    def __init__(self, provider: str) -> None:
        self._provider, self._left = provider, MAX_ANSWER

    def spend(self, length: int) -> None:
        """For an event of so many characters. Raises ProviderError when nothing is left."""
        self._left -= length + EVENT_COST
        if self._left < 0:
            raise ProviderError(f"{self._provider} sent an answer without an end")
