"""Decompression of request bodies (Content-Encoding), within the limit for bodies: the output is counted
while it is produced, so that a small body cannot expand beyond the limit.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from functools import partial

import zstandard

from headrace.errors import BadRequest, PayloadTooLarge, UnsupportedMedia
from headrace.offload import SMALL, aside

STEP = 2**18  # bytes that are decompressed at a time
MAX_ENCODINGS = 3  # that are applied to one body
MAX_MEMBERS = 64  # of a gzip body
MAX_WINDOW = 2**23  # bytes of memory for a zstd stream: the limit of RFC 9659
BROKEN = (zlib.error, zstandard.ZstdError)

Pieces = Iterator[bytes]


async def decoded(raw: bytes, header: str | None, limit: int) -> bytes:
    """The decompressed body. `limit`: of the output of each encoding, in bytes. Raises UnsupportedMedia for
    an unknown encoding, BadRequest for a broken one, PayloadTooLarge.
    """
    encodings = _encodings(header)
    for name in reversed(encodings):  # the last one was applied last
        # never on the event loop: the size of the output is not known before
        raw = await aside(SMALL + 1, partial(_decode, name, raw, limit))
    return raw


def _encodings(header: str | None) -> list[str]:
    named = [name.strip().lower() for name in (header or "").split(",")]
    encodings = [name.removeprefix("x-") for name in named if name not in ("", "identity")]
    unknown = next((name for name in encodings if name not in DECODERS), None)
    if unknown is not None or len(encodings) > MAX_ENCODINGS:
        understood = ", ".join(DECODERS)
        raise UnsupportedMedia(
            f"Content-Encoding is {(header or '')[:100]!r}; understood are: {understood}",
            param="Content-Encoding",
            headers={"Accept-Encoding": understood},
        )
    return encodings


def _decode(name: str, raw: bytes, limit: int) -> bytes:
    content = bytearray()
    try:
        for piece in DECODERS[name](raw):
            content += piece
            if len(content) > limit:
                raise PayloadTooLarge(f"the body is larger than {limit} bytes, unpacked", param="body")
    except BROKEN as exc:
        raise BadRequest(
            f"the body is not encoded as Content-Encoding says ({name}), or not whole",
            param="Content-Encoding",
        ) from exc
    return bytes(content)


def _gzip(raw: bytes) -> Pieces:
    """Decompress all members of a gzip body. Their number is limited, because each has a fixed cost."""
    rest = memoryview(raw)
    for _ in range(MAX_MEMBERS):
        if not rest:
            return
        decoder = zlib.decompressobj(wbits=31)  # with gzip's header
        at = 0
        while not decoder.eof and at < len(rest):
            yield from _inflated(decoder, rest[at : at + STEP])
            at += STEP
        _check_end(decoder)
        rest = rest[min(at, len(rest)) - len(decoder.unused_data) :]
    raise zlib.error("it has too many members")


def _deflate(raw: bytes) -> Pieces:
    """Decompress with zlib's header, as RFC 9110 wants it, or without, as some clients send it."""
    has_header = len(raw) >= 2 and raw[0] & 15 == 8 and not (raw[0] * 256 + raw[1]) % 31
    decoder = zlib.decompressobj(wbits=15 if has_header else -15)
    yield from _inflated(decoder, memoryview(raw))
    _check_end(decoder)


def _inflated(decoder: zlib._Decompress, packed: memoryview) -> Pieces:
    rest: bytes | memoryview = packed
    while piece := decoder.decompress(rest, STEP):
        yield piece
        rest = decoder.unconsumed_tail


def _check_end(decoder: zlib._Decompress) -> None:
    if not decoder.eof:
        raise zlib.error("the stream is not whole")


def _zstd(raw: bytes) -> Pieces:
    decoder = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
    with decoder.stream_reader(io.BytesIO(raw), read_across_frames=True) as reader:
        while piece := reader.read(STEP):
            yield piece


DECODERS: dict[str, Callable[[bytes], Pieces]] = {"gzip": _gzip, "deflate": _deflate, "zstd": _zstd}
