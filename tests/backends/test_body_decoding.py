"""A provider's body has bounds, whatever it is and however it is compressed."""

from __future__ import annotations

import asyncio
import json
import zlib
from typing import Any

import pytest

from headrace.backends import body_decoding
from headrace.backends.body_decoding import Budget, Decoder
from headrace.backends.openai import OpenAIBackend
from headrace.backends.sse import MAX_LINE
from headrace.collected import Collected
from headrace.config import ProviderConfig
from headrace.errors import ProviderError
from headrace.types import TextDelta
from tests.api.relays import Relays
from tests.heard import RELAYED, TRANSLATED
from tests.serving import eventually
from tests.upstream import Answer, Endless, scripted, sse

MEGABYTE = b"x" * 2**20
LIMIT = 128  # MiB of a JSON body
ON_THE_WAY = 40  # MiB that nobody has read: the kernel keeps 4 to be sent and 32 received, and we some


def chunk(text: str) -> bytes:
    return sse({"choices": [{"index": 0, "delta": {"content": text}}]})[0]


BODIES: dict[str, tuple[bytes, bytes, int]] = {  # first, then for ever, and how many MiB are read at most
    "JSON": (b'{"choices": [{"text": "', MEGABYTE, LIMIT),
    "a line": (b"data: {", MEGABYTE, 17),
    "an event of many lines": (b"data: {\n", b"data: " + MEGABYTE + b"\n", 17),
    "a page": (b"<html>", MEGABYTE, LIMIT),
    "an answer": (chunk("a"), chunk("x" * 2**20), 65),
}
ENDLESS = [
    (way, body)
    for way in ("relayed chat", "relayed chat streamed", "chat", "messages streamed", "responses")
    for body in BODIES
    if (way, body) != ("relayed chat streamed", "an answer")  # that passes on for ever, and keeps nothing
]


@pytest.mark.parametrize("gzip", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize(("way", "body"), ENDLESS)
def test_an_endless_body_is_an_error(relay: Relays, way: str, body: str, gzip: bool) -> None:
    found = {**RELAYED, **TRANSLATED}[way]
    first, again, most = BODIES[body]
    played = Endless(first, again)
    relay.provider.play(Answer(pieces=played, gzip=gzip))
    status, _, raw = relay.ask(found.path, found.body("up:m"), **found.headers)
    assert found.heard(status, raw).error
    most = LIMIT if way == "relayed chat" else most  # without a stream, the body is read whole
    assert played.num_taken < most + ON_THE_WAY or gzip  # compressed, much of it is on the way
    eventually(lambda: relay.provider.posts[-1].closed_at)


@pytest.mark.parametrize("gzip", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("way", ["relayed chat", "relayed chat streamed", "chat", "messages", "responses"])
def test_an_endless_refusal_is_read_as_far_as_its_message(relay: Relays, way: str, gzip: bool) -> None:
    found = {**RELAYED, **TRANSLATED}[way]
    played = Endless(b'{"error": {"message": "', MEGABYTE)
    relay.provider.play(Answer(400, pieces=played, gzip=gzip))
    status, _, raw = relay.ask(found.path, found.body("up:m"), **found.headers)
    assert "status 400" in (found.heard(status, raw).error or "")
    assert played.num_taken < 16 or gzip


@pytest.mark.parametrize("gzip", [False, True], ids=["plain", "gzip"])
def test_an_endless_list_of_models_is_none(gzip: bool) -> None:
    async def listed(url: str) -> None:
        backend = OpenAIBackend("p", ProviderConfig(kind="openai", base_url=url + "/v1"), None)
        await backend.upstream.start()
        try:
            await backend.list_models()
        finally:
            await backend.upstream.aclose()

    with scripted() as provider:
        provider.play(Answer(pieces=Endless(b'{"data": [{"id": "', MEGABYTE), gzip=gzip), path="/v1/models")
        with pytest.raises(ProviderError, match="more than"):
            asyncio.run(listed(provider.url))


@pytest.mark.parametrize("headers", [{"X-Long": "x" * 2**17}, {f"X-{n}": "x" for n in range(2000)}])
def test_endless_headers_are_an_error(relay: Relays, headers: dict[str, str]) -> None:
    for way in (RELAYED["relayed chat"], TRANSLATED["chat"]):
        relay.provider.play(Answer(headers=headers, pieces=[b"{}"]))
        status, _, raw = relay.ask(way.path, way.body("up:m"), **way.headers)
        assert status == 502
        assert way.heard(status, raw).error


def test_a_bomb_is_unpacked_in_small_pieces() -> None:
    packed = zlib.compress(bytes(64 * 2**20))
    sizes = [len(piece) for piece in Decoder("p", "deflate").feed(packed)]
    assert sum(sizes) == 64 * 2**20
    assert max(sizes) <= body_decoding.PIECE


@pytest.mark.parametrize("window", [31, zlib.MAX_WBITS, -zlib.MAX_WBITS], ids=["gzip", "zlib", "raw deflate"])
@pytest.mark.parametrize("size", [1, 7, 10**6])
def test_compressed_bodies_are_read_however_they_are_cut(window: int, size: int) -> None:
    packer = zlib.compressobj(wbits=window)
    packed = packer.compress(b"Hello " * 1000) + packer.flush()
    decoder = Decoder("p", "gzip" if window == 31 else "deflate")
    pieces = [packed[at : at + size] for at in range(0, len(packed), size)]
    assert b"".join(piece for part in pieces for piece in decoder.feed(part)) == b"Hello " * 1000
    assert decoder.is_whole


def test_other_encodings_are_an_error() -> None:
    for encoding in ("br", "gzip, gzip", "nonsense"):
        with pytest.raises(ProviderError):
            Decoder("p", encoding)
    assert list(Decoder("p", " Identity ").feed(b"x")) == [b"x"]


def test_many_small_pieces_cost_as_well() -> None:
    budget = Budget("p")
    for _ in range(body_decoding.MAX_ANSWER // (body_decoding.EVENT_COST + 1)):
        budget.spend(1)
    with pytest.raises(ProviderError, match="without an end"):
        budget.spend(1)


def test_folding_copies_no_text_that_came_before() -> None:
    """Adding to a str would copy it each time: 300,000 pieces of 100 characters would be 4.5 TB."""
    found = Collected()
    for _ in range(300_000):
        found.push(TextDelta(0, "x" * 100))
    assert len(found.choices[0].text) == 30_000_000


def test_the_relay_cuts_a_large_event_in_time(relay: Relays) -> None:
    """Searching all that is held for each piece would be 12 MB times 3,000."""
    large = json.dumps({"choices": [{"index": 0, "delta": {"content": "x" * (12 * 2**20)}}]}).encode()
    pieces = [b"data: ", *(large[at : at + 4096] for at in range(0, len(large), 4096)), b"\n\n"]
    relay.provider.play(Answer(pieces=[*pieces, b"data: [DONE]\n\n"]))
    way: Any = RELAYED["relayed chat streamed"]
    _, _, raw = relay.ask(way.path, way.body("up:m"))
    assert raw == b"".join(pieces) + b"data: [DONE]\n\n"
    assert len(raw) < MAX_LINE
