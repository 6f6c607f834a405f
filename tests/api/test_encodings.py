"""G20: request bodies that come compressed, on every way to a handler or a provider."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import zlib
from collections.abc import Callable, Iterator

import pytest
import zstandard

from headrace.api import encodings
from headrace.errors import BadRequest, PayloadTooLarge
from tests.api.relays import HI, STREAM, Relays, relays

LIMIT = 2**20
CHAT = "/v1/chat/completions"
PATHS = {
    "relayed": (CHAT, {}),
    "translated": (CHAT, {"X-Headrace-Strict": "true"}),
    "messages": ("/v1/messages", {}),
    "responses": ("/v1/responses", {}),
}


def raw_deflate(raw: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(raw) + packer.flush()


def streamed_zstd(raw: bytes) -> bytes:
    """Without its size, as a client writes it that does not know it yet."""
    packer = zstandard.ZstdCompressor().compressobj()
    return packer.compress(raw) + packer.flush()


def in_members(raw: bytes) -> bytes:
    return gzip.compress(raw[:7]) + gzip.compress(raw[7:])


zstd = zstandard.ZstdCompressor().compress
PACKED: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip, in capitals": ("X-GZip", gzip.compress),
    "gzip in two members": ("gzip", in_members),
    "deflate": ("deflate", zlib.compress),
    "deflate without a header": ("deflate", raw_deflate),
    "zstd": ("zstd", zstd),
    "zstd of unknown size": ("zstd", streamed_zstd),
    "two frames of zstd": ("zstd", lambda raw: zstd(raw[:7]) + zstd(raw[7:])),
    "one over the other": ("gzip, zstd", lambda raw: zstd(gzip.compress(raw))),
    "identity": ("identity", bytes),
}


@pytest.fixture(scope="module")
def running() -> Iterator[Relays]:
    with relays(max_body_bytes=LIMIT) as made:
        yield made


@pytest.fixture
def ours(running: Relays) -> Relays:
    running.provider.forget()
    return running


@pytest.mark.parametrize(("path", "headers"), PATHS.values(), ids=PATHS)
@pytest.mark.parametrize(("encoding", "pack"), PACKED.values(), ids=PACKED)
def test_g20_a_packed_body_is_read(
    ours: Relays, encoding: str, pack: Callable[[bytes], bytes], path: str, headers: dict[str, str]
) -> None:
    ours.provider.play(STREAM)
    said = {"input": "hi"} if path.endswith("responses") else {"messages": HI, "max_tokens": 9}
    body = json.dumps({"model": "up:m", "stream": True, **said}).encode()
    status, _, raw = ours.ask(path, pack(body), **{"Content-Encoding": encoding}, **headers)
    assert (status, b"Gr" in raw) == (200, True)
    seen = ours.provider.posts[-1]
    assert "content-encoding" not in seen.headers
    assert seen.body["messages"][-1]["content"] == "hi"


ZEROS = b'{"model": "' + b"0" * 200 * LIMIT + b'"}'


@pytest.mark.parametrize(("path", "headers"), PATHS.values(), ids=PATHS)
@pytest.mark.parametrize(
    ("encoding", "pack"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("zstd", zstd)],
    ids=["gzip", "deflate", "zstd"],
)
def test_g20_a_bomb_is_413(
    ours: Relays, encoding: str, pack: Callable[[bytes], bytes], path: str, headers: dict[str, str]
) -> None:
    bomb = pack(ZEROS)
    assert len(bomb) < LIMIT
    status, _, raw = ours.ask(path, bomb, **{"Content-Encoding": encoding}, **headers)
    error = json.loads(raw)["error"]
    assert status == 413
    assert "unpacked" in error["message"]


@pytest.mark.parametrize("encoding", ["br", "compress", "gzip, br", "x" * 300, "gzip, gzip, gzip, gzip"])
@pytest.mark.parametrize(("path", "headers"), PATHS.values(), ids=PATHS)
def test_g20_what_is_not_understood_is_415_with_what_is(
    ours: Relays, encoding: str, path: str, headers: dict[str, str]
) -> None:
    status, response_headers, raw = ours.ask(path, b"{}", **{"Content-Encoding": encoding}, **headers)
    assert status == 415
    assert response_headers["accept-encoding"] == "gzip, deflate, zstd"
    message = json.loads(raw)["error"]["message"]
    assert "gzip, deflate, zstd" in message
    assert len(message) < 300


BROKEN = {
    "no gzip": ("gzip", b"{}"),
    "half a gzip": ("gzip", gzip.compress(b"x" * 500)[:-9]),
    "no zlib": ("deflate", b"{}"),
    "no zstd": ("zstd", b"{}"),
    "a window of 128 MB": ("zstd", zstandard.ZstdCompressor(level=22).compressobj().compress(b"x") + b"x"),
    "members without end": ("gzip", gzip.compress(b"") * 1000),
}


@pytest.mark.parametrize(("encoding", "content"), BROKEN.values(), ids=BROKEN)
def test_g20_what_is_not_packed_so_is_400(ours: Relays, encoding: str, content: bytes) -> None:
    status, _, raw = ours.ask(CHAT, content, **{"Content-Encoding": encoding})
    assert status == 400
    assert json.loads(raw)["error"]["type"] == "invalid_request_error"


def test_g20_an_empty_body_stays_empty() -> None:
    found = asyncio.run(encodings.decoded(gzip.compress(b""), "gzip", 1))
    assert found == b""


def test_g20_the_limit_itself_fits() -> None:
    for name, pack in (("gzip", gzip.compress), ("deflate", zlib.compress), ("zstd", zstd)):
        assert len(asyncio.run(encodings.decoded(pack(b"x" * 10**6), name, 10**6))) == 10**6


@pytest.mark.parametrize("name", ["gzip", "deflate", "zstd"])
def test_g20_a_body_of_which_bytes_were_changed_is_read_or_refused(name: str) -> None:
    packed = PACKED[name][1](b'{"model": "m", "messages": []}')
    for at in range(len(packed)):
        mutated = packed[:at] + bytes([packed[at] ^ 0x55]) + packed[at + 1 :]
        with contextlib.suppress(BadRequest, PayloadTooLarge):
            assert isinstance(asyncio.run(encodings.decoded(mutated, name, 1000)), bytes)
