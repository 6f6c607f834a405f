import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, ItemsView, Sequence
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.backends import http
from headrace.backends import sse as stream_lines
from headrace.backends.error_body import error_body
from headrace.backends.sse import ServerSentEvent, events, lines
from headrace.errors import (
    ContextTooLong,
    ModelNotFound,
    ProviderError,
    ProviderKeyRefused,
    ProviderLimited,
    ProviderRefused,
    ProviderTimedOut,
    ProviderUnreachable,
    ServerError,
)
from tests import upstream
from tests.counting import num_calls
from tests.serving import eventually
from tests.upstream import Answer, answer, scripted, split, sse

T = TypeVar("T")
KEY = "sk-very-secret-0123456789"


async def _stream_of(pieces: Sequence[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def _lines(pieces: Sequence[bytes]) -> list[str]:
    async def read() -> list[str]:
        return [line async for line in lines(_stream_of(pieces))]

    return asyncio.run(read())


def _events(pieces: Sequence[bytes]) -> list[ServerSentEvent]:
    async def read() -> list[ServerSentEvent]:
        return [sent async for sent in events(_stream_of(pieces))]

    return asyncio.run(read())


def _with(
    url: str, use: Callable[[http.Upstream], Awaitable[T]], *, timeout_s: float = 5.0, path: str = "/v1"
) -> T:
    async def run() -> T:
        client = http.Upstream(
            "p", url + path, headers={"Authorization": f"Bearer {KEY}"}, timeout_s=timeout_s
        )
        await client.start()
        try:
            return await use(client)
        finally:
            await client.aclose()

    return asyncio.run(run())


async def _read(client: http.Upstream) -> bytes:
    async with client.stream("/x", {}) as pieces:
        return b"".join([piece async for piece in pieces])


RAW = (
    "data: é1\r\n\r\n: note\rdata:2\r\revent: e\ndata: 3\ndata: 4\n\nid: 7\nretry: 1\n\ndata\n\ndata: 5"
).encode()
READ = [
    ServerSentEvent("", "é1"),
    ServerSentEvent("", "2"),
    ServerSentEvent("e", "3\n4"),
    ServerSentEvent("", ""),
    ServerSentEvent("", "5"),
]


def test_events_are_the_same_however_they_are_cut() -> None:
    for at in range(len(RAW) + 1):
        assert _events(split(RAW, [at])) == READ
    assert _events([RAW[at : at + 1] for at in range(len(RAW))]) == READ


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab\r\né", max_size=30), st.lists(st.integers(0, 40), max_size=6))
def test_lines_are_the_same_however_they_are_cut(text: str, at: list[int]) -> None:
    expected = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if not expected[-1]:
        expected.pop()
    assert _lines(split(text.encode(), sorted(min(place, len(text.encode())) for place in at))) == expected


def test_a_line_is_complete_as_soon_as_it_ends_with_cr() -> None:
    async def read() -> str:
        async def stalling() -> AsyncIterator[bytes]:
            yield b"data: 1\r\r"
            await asyncio.sleep(60)

        return (await asyncio.wait_for(anext(events(stalling())), 30)).data

    assert asyncio.run(read()) == "1"


def test_a_mark_of_byte_order_begins_no_event() -> None:
    assert _events([b"\xef\xbb", b"\xbfdata: 1\n\n"]) == [ServerSentEvent("", "1")]


def test_an_event_without_an_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_lines, "MAX_LINE", 1000)
    with pytest.raises(ProviderError, match="without an end"):
        _events([b"data: " + b"x" * 600, b"x" * 600])
    with pytest.raises(ProviderError, match="without an end"):
        _events([b"data: " + b"x" * 600 + b"\n"] * 2)
    assert len(_events([b"data: " + b"x" * 600 + b"\n\n"] * 2)) == 2


def test_the_work_on_many_small_events_in_one_piece_is_linear() -> None:
    def work(count: int) -> None:
        assert len(_events([b"data: {}\n\n" * count])) == count

    assert num_calls(lambda: work(10_000)) < 11 * num_calls(lambda: work(1_000))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"error": {"message": "m", "type": "t"}}', "m"),
        ('{"error": "m"}', "m"),
        ('{"message": "m"}', "m"),
        ('{"detail": "m"}', "m"),
        ('{"detail": [{"msg": "m"}]}', "m"),
        ("<html>", ""),
        ('"m"', "m"),
        ("[" * 100_000, ""),
    ],
)
def test_the_message_of_an_error_body(body: str, message: str) -> None:
    assert error_body(body).message == message


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, ProviderRefused),
        (401, ProviderKeyRefused),
        (402, ProviderKeyRefused),
        (403, ProviderKeyRefused),
        (404, ModelNotFound),
        (408, ProviderTimedOut),
        (409, ProviderRefused),
        (413, ProviderRefused),
        (422, ProviderRefused),
        (429, ProviderLimited),
        (500, ProviderError),
        (502, ProviderError),
        (503, ProviderUnreachable),
        (504, ProviderTimedOut),
        (529, ProviderUnreachable),
        (599, ProviderError),
    ],
)
def test_each_status_is_an_error_of_its_own(status: int, kind: type[ServerError]) -> None:
    body = split(b'{"error": {"message": "its own words"}}', [1, 20])  # more than one read
    with scripted() as provider:
        provider.play(Answer(status, pieces=body, delay_s=0.005, headers={"retry-after": "7"}))
        with pytest.raises(kind) as caught:
            _with(provider.url, _read)
    assert type(caught.value) is kind
    assert caught.value.message == "p: its own words"
    if status in (429, 503, 529):
        assert caught.value.headers == {"Retry-After": "7"}
    assert len(provider.requests) == 1


def test_a_prompt_that_does_not_fit_has_an_error_of_its_own() -> None:
    with scripted() as provider:
        provider.play(answer({"message": "This model's maximum context length is 9 tokens"}, status=400))
        with pytest.raises(ContextTooLong, match="is 9 tokens"):
            _with(provider.url, _read)


def test_a_key_that_the_provider_repeats_is_masked() -> None:
    with scripted() as provider:
        provider.play(answer({"error": f"no such key: {KEY}"}, status=401))
        with pytest.raises(ProviderKeyRefused) as caught:
            _with(provider.url, _read)
        assert provider.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert caught.value.message == "p: no such key: (secret)"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status: int) -> None:
    with scripted() as provider, scripted() as other:
        provider.play(Answer(status, headers={"Location": other.url + "/v1/x"}))
        with pytest.raises(ProviderError, match="redirect"):
            _with(provider.url, _read)
        assert not other.requests


def test_cookies_are_not_stored() -> None:
    with scripted() as provider:
        provider.play(*[Answer(headers={"Set-Cookie": "a=b; Path=/"})] * 2)

        async def twice(client: http.Upstream) -> None:
            await _read(client)
            await _read(client)

        _with(provider.url, twice)
    assert "cookie" not in provider.requests[1].headers
    assert [seen.connection for seen in provider.requests] == [0, 0]


def test_gzip_is_unpacked_as_it_comes() -> None:
    with scripted() as provider:
        provider.play(Answer(pieces=sse("1", "2"), gzip=True), Answer(pieces=sse("1"), gzip=True, stall=True))
        assert _with(provider.url, _read) == b"data: 1\n\ndata: 2\n\n"

        async def first(client: http.Upstream) -> bytes:
            async with client.stream("/x", {}) as pieces:
                return await anext(pieces)

        assert _with(provider.url, first) == b"data: 1\n\n"


BROKEN = {
    "gzip": Answer(headers={"Content-Encoding": "gzip"}, pieces=[b"this is not packed"]),
    "cut before its head": Answer(0, cut=True),
    "cut after its head": Answer(cut=True),
    "cut in its body": Answer(pieces=[b"data: 1\n\n"], cut=True),
    "cut while it refuses": Answer(400, pieces=[b"{"], cut=True),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_answer_is_a_failure_of_the_provider(name: str) -> None:
    with scripted() as provider:
        provider.play(BROKEN[name])
        with pytest.raises(ProviderError) as caught:
            _with(provider.url, _read)
        assert (caught.value.status, caught.value.message) == (502, "the connection to p broke")
        assert len(provider.requests) == 1, "it was sent again"


def test_what_is_no_http_is_a_failure_of_the_provider() -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.9\r\n\r\n")
        await writer.drain()
        writer.close()

    async def exchange() -> None:
        server = await asyncio.start_server(speak, "127.0.0.1", 0)
        async with server:
            client = http.Upstream(
                "p", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", headers={}, timeout_s=60
            )
            await client.start()
            try:
                await _read(client)
            finally:
                await client.aclose()

    with pytest.raises(ProviderError, match="broke"):
        asyncio.run(exchange())


@pytest.mark.parametrize(
    "stalled", [Answer(opening_s=60), Answer(stall=True), Answer(pieces=[b"data: 1\n\n"], stall=True)]
)
def test_a_silent_provider_times_out(stalled: Answer) -> None:
    with scripted() as provider:
        provider.play(stalled)
        with pytest.raises(ProviderTimedOut):
            _with(provider.url, _read, timeout_s=0.1)


def test_the_time_limit_begins_anew_with_each_piece() -> None:
    pieces = [b"x"] * 15
    with scripted() as provider:
        provider.play(Answer(pieces=pieces, delay_s=0.2), Answer(pieces=pieces, delay_s=0.2, stall=True))
        assert _with(provider.url, _read, timeout_s=2.0) == b"".join(pieces)  # which took three seconds
        with pytest.raises(ProviderTimedOut):
            _with(provider.url, _read, timeout_s=2.0)


def test_a_reader_may_pause_for_longer_than_the_time_limit() -> None:
    """The rest waits in the socket, and is no silence of the provider's."""
    pieces = [b"x" * 2**16] * 128

    async def read(client: http.Upstream) -> int:
        size = 0
        async with client.stream("/x", {}) as arriving:
            async for piece in arriving:
                if not size:
                    await asyncio.sleep(2.0)
                size += len(piece)
        return size

    with scripted() as provider:
        provider.play(Answer(pieces=pieces))
        assert _with(provider.url, read, timeout_s=1.0) == len(pieces) * 2**16


def test_a_closed_port_is_unreachable() -> None:
    with scripted() as provider:
        url = provider.url
    with pytest.raises(ProviderUnreachable) as caught:
        _with(url, _read)
    assert caught.value.headers == {"Retry-After": "1"}


def test_what_a_reader_raises_stays_what_it_is() -> None:
    async def fail(client: http.Upstream) -> None:
        async with client.stream("/x", {}):
            raise TimeoutError("the reader's own")

    with scripted() as provider:
        provider.play(Answer(pieces=[b"1"], stall=True))
        with pytest.raises(TimeoutError, match="the reader's own"):
            _with(provider.url, fail)


def test_leaving_closes_the_connection_at_once() -> None:
    async def leave(client: http.Upstream) -> None:
        async with client.stream("/x", {}) as pieces:
            await anext(pieces)
        # while the client lives on
        await asyncio.to_thread(eventually, lambda: provider.requests[0].closed_at)

    with scripted() as provider:
        provider.play(Answer(pieces=[b"1"], stall=True))
        _with(provider.url, leave)


def test_what_came_before_a_cut_is_read() -> None:
    async def read_late(client: http.Upstream) -> bytes:
        async with client.stream("/x", {}) as pieces:
            await asyncio.sleep(0.05)  # by then the connection is gone
            first = await anext(pieces)
            with pytest.raises(ProviderError, match="broke"):
                await anext(pieces)
        return first

    with scripted() as provider:
        provider.play(Answer(pieces=[b"1", b"2"], cut=True))
        assert _with(provider.url, read_late) == b"12"


def test_json_is_read_and_nonsense_is_a_failure() -> None:
    async def get(client: http.Upstream) -> object:
        return await client.json("GET", "/models")

    with scripted() as provider:
        provider.play(
            upstream.answer({"a": 1}), Answer(pieces=[b"<html>"]), Answer(pieces=[b"{"], cut=True),
            path="/v1/models",
        )  # fmt: skip
        assert _with(provider.url, get) == {"a": 1}
        for _ in range(2):
            with pytest.raises(ProviderError):
                _with(provider.url, get)


def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.replace("//", "//u:p@"))
        monkeypatch.delenv("no_proxy", raising=False)
        proxy.play(Answer(pieces=[b"1"]))
        assert _with("http://provider.invalid", _read) == b"1"
        assert proxy.requests[0].headers["proxy-authorization"] == "Basic dTpw"
        with scripted() as provider:
            provider.play(Answer(pieces=[b"2"]))
            assert _with(provider.url, _read) == b"2"
        assert len(proxy.requests) == 1


class _Members(dict[str, object]):
    """A body that notes in which threads its members are written."""

    def __init__(self, members: dict[str, object]) -> None:
        super().__init__(members)
        self.threads = set[int]()

    def items(self) -> ItemsView[str, object]:  # type: ignore[override]  # dict's own type is private
        self.threads.add(threading.get_ident())
        return super().items()


LARGE_BODIES = {
    "one text": {"messages": [{"role": "user", "content": "é word " * 400_000}], "n": 1},
    "many texts": {"input": ["a word"] * 100_000, "model": "m"},
    "a text with half of a pair": {"prompt": "\ud83d" + "x" * 2_000_000},
    "large tools": {"tools": [{"name": f"t{n}", "parameters": {"enum": ["v" * 9] * 99}} for n in range(999)]},
}


@pytest.mark.parametrize("members", LARGE_BODIES.values(), ids=LARGE_BODIES.keys())
def test_a_large_body_is_sent_whole_and_is_not_written_on_the_event_loop(members: dict[str, object]) -> None:
    body = _Members(members)
    with scripted() as provider:
        provider.play(answer({"ok": True}), Answer(pieces=sse("[DONE]")))

        async def send(client: http.Upstream) -> None:
            await client.json("POST", "/x", body)
            async with client.stream("/x", body) as pieces:
                assert b"".join([piece async for piece in pieces])

        _with(provider.url, send)
    assert [seen.body for seen in provider.posts] == [members, members]
    assert body.threads
    assert threading.get_ident() not in body.threads
