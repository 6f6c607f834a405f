import asyncio
import json

import pytest

from headrace.backends.http import LARGE_BODY, Upstream
from headrace.errors import ProviderError
from tests.api.relays import HI, STREAM, WHOLE, Relays
from tests.upstream import Answer, answer, scripted, sse

WAYS = {"relayed": "/up/v1/chat/completions", "mapped": "/up/v1/responses"}


def _ask(relay: Relays, way: str, *, streamed: bool = False) -> int:
    prompt = {"input": "hi", "store": False} if way == "mapped" else {"messages": HI}
    return relay.ask(WAYS[way], json.dumps({"model": "m", "stream": streamed, **prompt}).encode())[0]


@pytest.mark.parametrize("way", WAYS)
def test_a_provider_may_close_after_each_answer(relay: Relays, way: str) -> None:
    before = len(relay.provider.posts)
    whole = answer(WHOLE).pieces if way == "relayed" else STREAM.pieces
    kind = "application/json" if way == "relayed" else "text/event-stream"
    relay.provider.play(*[Answer(headers={"Content-Type": kind}, pieces=whole, last=True)] * 100)
    assert [_ask(relay, way) for _ in range(100)] == [200] * 100
    assert len(relay.provider.posts) - before == 100, "each was answered once"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_a_request_on_a_stale_connection_is_sent_again_on_a_new_one(
    relay: Relays, way: str, *, streamed: bool
) -> None:
    before = len(relay.provider.posts)
    plain = way == "relayed" and not streamed
    kind, pieces = (
        ("application/json", answer(WHOLE).pieces) if plain else ("text/event-stream", STREAM.pieces)
    )
    relay.provider.play(*[Answer(headers={"Content-Type": kind}, pieces=pieces, deaf=True)] * 6)
    assert [_ask(relay, way, streamed=streamed) for _ in range(6)] == [200] * 6
    seen = relay.provider.posts[before:]
    assert len(seen) == len({one.connection for one in seen}) == 6


async def _post(client: Upstream, size: int = 0) -> bytes:
    async with client.stream("/x", {"filled": "x" * size}) as pieces:
        return b"".join([piece async for piece in pieces])


def _posted(url: str, *, times: int, size: int = 0) -> list[bytes]:
    async def run() -> list[bytes]:
        client = Upstream("p", url, headers={}, timeout_s=60.0)
        await client.start()
        try:
            return [await _post(client, size) for _ in range(times)]
        finally:
            await client.aclose()

    return asyncio.run(run())


def test_a_large_body_is_sent_again_whole() -> None:
    with scripted() as provider:
        provider.play(Answer(pieces=[b"1"], deaf=True), Answer(pieces=[b"2"]))
        assert _posted(provider.url, times=2, size=4 * LARGE_BODY) == [b"1", b"2"]
        assert provider.requests[0].raw == provider.requests[1].raw


def test_a_request_is_sent_twice_at_most() -> None:
    with scripted() as provider:
        provider.play(Answer(pieces=sse("1")), *[Answer(0, cut=True)] * 5)
        with pytest.raises(ProviderError, match="broke"):
            _posted(provider.url, times=2)
        assert len(provider.requests) == 3


def test_what_dies_on_a_fresh_connection_is_not_sent_again() -> None:
    with scripted() as provider:
        provider.play(Answer(0, cut=True), Answer())
        with pytest.raises(ProviderError, match="broke"):
            _posted(provider.url, times=1)
        assert len(provider.requests) == 1


@pytest.mark.parametrize(
    "broken", [Answer(cut=True), Answer(500, pieces=[b"{"], cut=True), Answer(pieces=[b"1"], cut=True)]
)
def test_a_request_whose_answer_has_started_is_not_sent_again(broken: Answer) -> None:
    with scripted() as provider:
        provider.play(Answer(pieces=[b"1"]), broken, Answer())
        with pytest.raises(ProviderError, match="broke"):
            _posted(provider.url, times=2)
        assert len(provider.requests) == 2


@pytest.mark.parametrize("beginning", [b"H", b"HTTP/1.1 20", b"HTTP/1.1 200 OK\r\nContent-Le"])
def test_a_part_of_a_head_is_a_part_of_an_answer(beginning: bytes) -> None:
    num_requests = 0

    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal num_requests
        for written in (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1", beginning):
            await reader.readuntil(b"}")
            num_requests += 1
            writer.write(written)
            await writer.drain()
        writer.close()

    async def run() -> None:
        async with await asyncio.start_server(answer_once, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            client = Upstream("p", f"http://127.0.0.1:{port}", headers={}, timeout_s=60.0)
            await client.start()
            try:
                assert await _post(client) == b"1"
                with pytest.raises(ProviderError, match="broke"):
                    await _post(client)
            finally:
                await client.aclose()

    asyncio.run(run())
    assert num_requests == 2
