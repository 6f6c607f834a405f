import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from headrace.backends.http import LARGE_BODY, Upstream
from headrace.errors import ProviderError, ProviderTimedOut
from tests.api.relays import HI, STREAM, WHOLE, Relays
from tests.serving import eventually
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


@asynccontextmanager
async def _client(url: str, timeout_s: float = 60.0) -> AsyncIterator[Upstream]:
    client = Upstream("p", url, headers={}, timeout_s=timeout_s)
    await client.start()
    try:
        yield client
    finally:
        await client.aclose()


async def _post(client: Upstream, size: int = 0) -> bytes:
    async with client.stream("/x", {"filled": "x" * size}) as pieces:
        return b"".join([piece async for piece in pieces])


def _posted(url: str, *, times: int, size: int = 0) -> list[bytes]:
    async def run() -> list[bytes]:
        async with _client(url) as client:
            return [await _post(client, size) for _ in range(times)]

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
            async with _client(f"http://127.0.0.1:{port}") as client:
                assert await _post(client) == b"1"
                with pytest.raises(ProviderError, match="broke"):
                    await _post(client)

    asyncio.run(run())
    assert num_requests == 2


BODY = b'{"said": "Hello"}'
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNK = b"%x\r\n%b\r\n" % (len(BODY), BODY)
END = b"0\r\n\r\n"
OTHER = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret"


def _of_length(length: int | str, *, again: str = "") -> bytes:
    return OK + f"Content-Length: {length}\r\n{again}\r\n".encode()


BROKEN = {  # heads and bodies
    "a size that is none": (CHUNKED, b"zz\r\n" + BODY),
    "no size": (CHUNKED, b"\r\n" + BODY),
    "a negative size": (CHUNKED, b"-5\r\n" + BODY),
    "a size that overflows": (CHUNKED, b"f" * 17 + b"\r\n" + BODY),
    "a second size that is none": (CHUNKED, CHUNK + b"zz\r\n" + BODY),
    "a chunk that is too long": (CHUNKED, CHUNK[:-2] + b"more\r\n" + END),
    "a chunk that is too short": (CHUNKED, CHUNK[:-9]),
    "no last chunk": (CHUNKED, CHUNK),
    "bare line feeds": (CHUNKED, CHUNK.replace(b"\r", b"")),
    "trailers that are none": (CHUNKED, CHUNK + b"0\r\n\x00 none\r\n\r\n"),
    "a trailer without a colon": (CHUNKED, CHUNK + b"0\r\nnone\r\n\r\n"),
    "endless trailers": (CHUNKED, CHUNK + b"0\r\n" + b"X-A: b\r\n" * 2000),
    "a length that is too large": (_of_length(len(BODY) + 9), BODY),
    "a negative length": (_of_length(-1), BODY),
    "a length that overflows": (_of_length("9" * 30), BODY),
    "a length that is none": (_of_length("x"), BODY),
    "two lengths": (_of_length(len(BODY), again="Content-Length: 3\r\n"), BODY),
    "a length and chunks": (_of_length(len(BODY), again="Transfer-Encoding: chunked\r\n"), CHUNK + END),
    "half a head": (OK + b"Content-Le", b""),
    "interim responses alone": (b"HTTP/1.1 102 Processing\r\n\r\n" * 3, b""),
    "too many interim responses": (b"HTTP/1.1 102 Processing\r\n\r\n" * 2000 + _of_length(len(BODY)), BODY),
    "HTTP/0.9": (b"", BODY),
    "HTTP/2": (b"", b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"),
}
WHOLLY = {
    "garbage after the last chunk": (CHUNKED, CHUNK + END + b"garbage"),
    "lines after the last chunk": (CHUNKED, CHUNK + END + b"\r\n\r\n"),
    "garbage after its length": (_of_length(len(BODY)), BODY + b"garbage"),
    "another answer after the last chunk": (CHUNKED, CHUNK + END + OTHER),
    "another answer after its length": (_of_length(len(BODY)), BODY + OTHER),
    "trailers": (CHUNKED, CHUNK + b"0\r\nX-Sum: 5\r\n\r\n"),
    "interim responses": (b"HTTP/1.1 102 Processing\r\n\r\n" * 3 + _of_length(len(BODY)), BODY),
}
CUTS: dict[str, Callable[[bytes, bytes], list[bytes]]] = {
    "in one piece": lambda head, body: [head + body],
    "in two pieces": lambda head, body: [head, body],
    "its head in two pieces": lambda head, body: [head[:-2], head[-2:] + body],
    "the ends of chunks apart": lambda head, body: [head, *_before(b"\r\n", body)],
}


def _before(end: bytes, body: bytes) -> list[bytes]:
    first, *others = body.split(end)
    return [first, *(end + other for other in others[:20]), end.join([b"", *others[20:]])]


def _played(head: bytes, body: bytes, cut: str, *, stall: bool) -> Answer:
    pieces = [piece for piece in CUTS[cut](head, body) if piece]
    return Answer(head=pieces[0], pieces=pieces[1:], delay_s=0.005, stall=stall)


async def _posted_in_time(client: Upstream) -> bytes:
    async with asyncio.timeout(30):
        return await _post(client)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", BROKEN)
def test_an_answer_whose_http_is_broken_fails_at_once(name: str, cut: str) -> None:
    """However it is cut, and without a wait for the time limit."""

    async def run(url: str) -> None:
        async with _client(url) as client:
            with pytest.raises(ProviderError, match="broke"):
                await _posted_in_time(client)
            assert await _posted_in_time(client) == BODY

    with scripted() as provider:
        head, body = BROKEN[name]
        provider.play(_played(head, body, cut, stall=False), Answer(pieces=[BODY]))
        asyncio.run(run(provider.url))


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", WHOLLY)
def test_what_surrounds_an_answer_is_no_part_of_it_nor_of_the_next(name: str, cut: str) -> None:
    async def run(url: str, is_over: Callable[[], bool]) -> None:
        async with _client(url) as client:
            assert await _posted_in_time(client) == BODY
            await asyncio.to_thread(eventually, is_over)
            assert await _posted_in_time(client) == b"1"

    with scripted() as provider:
        head, body = WHOLLY[name]
        has_surplus = body.endswith((b"garbage", OTHER))
        is_over = (lambda: not provider.transports) if has_surplus else (lambda: True)
        provider.play(_played(head, body, cut, stall=has_surplus), Answer(pieces=[b"1"]))
        asyncio.run(run(provider.url, is_over))


@pytest.mark.parametrize("head", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early\r\nX: 1\r\n\r\n"])
def test_after_an_interim_response_the_time_limit_runs(head: bytes) -> None:
    async def run(url: str) -> None:
        async with _client(url, timeout_s=0.2) as client:
            with pytest.raises(ProviderTimedOut):
                await _posted_in_time(client)

    with scripted() as provider:
        provider.play(Answer(head=head, stall=True))
        asyncio.run(run(provider.url))
