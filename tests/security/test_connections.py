"""Connections: how many there may be, how slow they may be, and how they end."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import psutil
import pytest
from websockets.sync.client import connect as websocket

from tests.cli.process import Serving
from tests.security.raw import (
    CHAT,
    CHUNKED,
    HEALTH,
    HOST,
    JSON,
    QUESTION,
    QUICK,
    WEBSOCKET,
    Answer,
    chunk,
    connect,
    exchange,
    gateway,
    head,
    is_closed,
    is_served,
    post,
    read_answer,
)
from tests.serving import eventually


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """One that waits for a second where the default is 30 s."""
    with gateway(tmp_path_factory.mktemp("quick"), config=QUICK) as served:
        yield served


# -- how many --------------------------------------------------------------------------------------------


def limited(descriptors: int) -> list[str]:
    return ["bash", "-c", f'ulimit -n {descriptors}; exec "$@"', "limited"]


@contextmanager
def many(gate: Serving, number: int, sent: bytes = b"") -> Iterator[list[socket.socket]]:
    """Connections that have sent this much and wait."""
    with ExitStack() as exits:
        opened = []
        for _ in range(number):
            with contextlib.suppress(OSError):
                opened.append(exits.enter_context(connect(gate)))
                opened[-1].sendall(sent)
        yield opened


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="that send nothing"),
        pytest.param(b"GET /health HTTP/1.1\r\nHost: local", id="in the middle of a head"),
        pytest.param(HEALTH, id="after an answer"),
        pytest.param(b"\r\n\r\n", id="with empty lines"),
    ],
)
def test_1100_idle_connections_at_1024_descriptors_keep_nobody_out(tmp_path: Path, sent: bytes) -> None:
    with gateway(tmp_path, prefix=limited(1024)) as gate:
        with many(gate, 1100, sent):
            for _ in range(20):
                assert is_served(gate)
        gate.process.send_signal(signal.SIGTERM)
        assert gate.process.wait(60) == 0
        log = gate.log.read_text()
    assert len(re.findall("connections are in use: an idle one was closed", log)) == 1
    assert "Traceback" not in log


def test_when_all_are_busy_the_next_is_refused(tmp_path: Path) -> None:
    with gateway(tmp_path, "--max-connections", "20", config=QUICK.replace("= 1\n", "= 600\n")) as gate:
        with many(gate, 20, post(1000, b"{")) as busy:
            assert len(busy) == 20
            eventually(lambda: exchange(gate, HEALTH).status == 503)
            answer = exchange(gate, HEALTH)
            assert (answer.status, answer.error["code"]) == (503, "server_is_overloaded")
            assert answer.headers["retry-after"]
            for _ in range(100):  # refused ones take no places either
                assert exchange(gate, HEALTH).status == 503
        eventually(lambda: exchange(gate, HEALTH).status == 200)
        assert len(re.findall("a new one was refused", gate.log.read_text())) == 1


def test_those_that_were_idle_longest_go_first(tmp_path: Path) -> None:
    with gateway(tmp_path, "--max-connections", "20") as gate, many(gate, 20, HEALTH) as opened:
        for source in opened:
            assert read_answer(source).status == 200
        opened[0].sendall(HEALTH)  # no longer the one that is idle longest
        assert read_answer(opened[0]).status == 200
        with many(gate, 5):
            assert all(is_closed(source, within_s=60) for source in opened[1:6])
            for source in (opened[0], *opened[6:]):
                source.sendall(HEALTH)
                assert read_answer(source).status == 200


def test_a_long_text_of_a_websocket_is_decoded_with_its_json(tmp_path: Path) -> None:
    """Which happens in a thread: so even one that is no UTF-8 comes as far as that."""
    with gateway(tmp_path) as gate, websocket(gate.url.replace("http", "ws") + "/v1/responses") as opened:
        text = b'{"type": "response.create", "model": "fake", "store": false, "input": "%b"}'
        for long, word in ((b"x" * 70_000, "response.created"), (b"\xff" * 70_000, "invalid_json")):
            opened.send(text % long, text=True)
            assert word in str(opened.recv(60))
            while word != "invalid_json" and "response.completed" not in str(opened.recv(60)):
                pass


def test_idle_websockets_keep_nobody_out_either(tmp_path: Path) -> None:
    opening = head("GET", "/v1/responses", {**HOST, **WEBSOCKET})
    with gateway(tmp_path, "--max-connections", "20") as gate, many(gate, 20, opening) as opened:
        assert all(read_answer(source).status == 101 for source in opened)
        for _ in range(3):
            assert is_served(gate)
        assert opened[0].recv(100)[:4] == b"\x88\x02\x03\xf4", "a close frame with the code 1012"
        assert is_served(gate)


def test_more_descriptors_are_taken_where_that_is_allowed(tmp_path: Path) -> None:
    soft = ["bash", "-c", 'ulimit -Sn 256; exec "$@"', "limited"]
    with gateway(tmp_path, prefix=soft) as gate, many(gate, 400) as opened:
        for source in opened:
            source.sendall(HEALTH)
            assert read_answer(source).status == 200


# -- how slow --------------------------------------------------------------------------------------------


def trickled(gate: Serving, first: bytes, piece: bytes) -> Answer:
    """The answer to what is sent a little at a time, until there is one."""
    with connect(gate, timeout_s=0.2) as source:
        source.sendall(first)
        for _ in range(100):
            try:
                source.sendall(piece)
                return read_answer(source)
            except TimeoutError:
                continue
            except OSError:
                break
    raise AssertionError("it was served for 20 s")


SLOW = {
    "request line": (b"GET /", b"a"),
    "headers": (b"GET / HTTP/1.1\r\n", b"a"),
    "many headers": (b"GET / HTTP/1.1\r\n", b"a: b\r\n"),
    "body": (post(1000), b" "),
    "chunked body": (head("POST", CHAT, CHUNKED), chunk(b" ")),
    "chunk extension": (head("POST", CHAT, CHUNKED) + b"1;", b"a"),
    "chunk size": (head("POST", CHAT, CHUNKED), b"0"),
    "trailers": (head("POST", CHAT, CHUNKED) + chunk(QUESTION) + b"0\r\n", b"a: b\r\n"),
    "body of a route that reads none": (post(1000).replace(CHAT.encode(), b"/health"), b" "),
    "websocket": (head("GET", "/v1/responses", {**HOST, **WEBSOCKET})[:-2], b"a: b\r\n"),
}


@pytest.fixture(scope="module")
def trickling(quick: Serving) -> Iterator[dict[str, Future[Answer]]]:
    """The answer to each of SLOW. They wait side by side."""
    with ThreadPoolExecutor(len(SLOW)) as pool:
        yield {name: pool.submit(trickled, quick, *parts) for name, parts in SLOW.items()}


@pytest.mark.parametrize("name", SLOW)
def test_what_trickles_is_408_or_was_answered_before(trickling: dict[str, Future[Answer]], name: str) -> None:
    answer = trickling[name].result()
    assert answer.status == (405 if "route" in name else 408)
    if answer.status == 408:
        assert answer.headers["connection"] == "close"
        assert (answer.error["code"], answer.error["type"]) == ("request_timeout", "invalid_request_error")


@pytest.fixture(scope="module")
def stopped(quick: Serving) -> Iterator[dict[str, socket.socket]]:
    """A connection that has sent the beginning of each of SLOW and no more. They wait side by side."""
    with ExitStack() as exits:
        sources = {name: exits.enter_context(connect(quick)) for name in SLOW}
        for name, source in sources.items():
            source.sendall(SLOW[name][0])
        yield sources


@pytest.mark.parametrize("name", SLOW)
def test_what_stops_in_the_middle_is_closed(stopped: dict[str, socket.socket], name: str) -> None:
    assert is_closed(stopped[name], within_s=60)


def test_a_slow_body_that_makes_progress_is_served(tmp_path: Path) -> None:
    """For longer than it might wait without progress, and never so long without it."""
    body = b" " * 9600 + QUESTION
    slow = QUICK.replace("= 1\n", "= 3\n")
    with gateway(tmp_path, config=slow) as gate, connect(gate) as source:
        source.sendall(post(len(body)))
        for begin in range(0, len(body), 1200):
            time.sleep(0.4)
            source.sendall(body[begin : begin + 1200])
        assert read_answer(source).status == 200


def test_a_connection_that_waits_for_its_answer_is_not_hurried(tmp_path: Path) -> None:
    slow = QUICK + "[providers.slow]\nkind = 'openai'\nbase_url = 'http://127.0.0.1:{}/v1'\n"
    with (
        socket.create_server(("127.0.0.1", 0)) as never,
        gateway(tmp_path, config=slow.format(never.getsockname()[1])) as gate,
        connect(gate) as source,
    ):
        source.sendall(post(len(QUESTION), QUESTION).replace(CHAT.encode(), b"/slow" + CHAT.encode()))
        assert not is_closed(source, within_s=2.5)


def flood(request: bytes, source: socket.socket) -> None:
    """Send the request 200 times, or until the other side has read nothing for as long as the timeout is."""
    source.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with contextlib.suppress(TimeoutError, ConnectionError):
        for _ in range(200):
            source.sendall(request)


def test_who_never_reads_a_stream_holds_little_and_not_for_long(quick: Serving) -> None:
    body = b'{"model": "fake", "input": "hi", "instructions": "%s", "stream": true}' % (b"x" * 200_000)
    request = head("POST", "/v1/responses", {**HOST, **JSON, "Content-Length": str(len(body))}) + body
    process = psutil.Process(quick.process.pid)
    before = process.memory_info().rss
    with ExitStack() as exits:
        sources = [exits.enter_context(connect(quick, timeout_s=1)) for _ in range(10)]
        with ThreadPoolExecutor(10) as pool:
            list(pool.map(partial(flood, request), sources))
        assert process.memory_info().rss - before < 150 * 2**20
        eventually(lambda: len(process.net_connections()) < 5)
    assert is_served(quick)
    eventually(lambda: "read nothing" in quick.log.read_text())


def is_cut_in_its_body(gate: Serving, piece: bytes) -> bool:
    """Whether a body that goes on after its answer, a little at a time, is ended within 20 s."""
    with connect(gate) as source, contextlib.suppress(OSError):
        source.sendall(post(10**12, b"{").replace(CHAT.encode(), b"/nowhere"))
        assert read_answer(source).status == 404
        for _ in range(100):
            if is_closed(source, within_s=0.2):
                return True
            source.sendall(piece)
        return False
    return True


def test_a_body_that_nobody_waits_for_does_not_go_on_for_ever(quick: Serving) -> None:
    pieces = [b"", b"a: b\r\n", b" ", b"\r\n"]
    with ThreadPoolExecutor(len(pieces)) as pool:
        assert all(pool.map(is_cut_in_its_body, [quick] * len(pieces), pieces))


def test_a_client_that_reads_slowly_is_not_cut(quick: Serving) -> None:
    asset = head("GET", "/docs/assets/swagger-ui-bundle.js", HOST)
    with connect(quick) as source:
        source.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        source.sendall(asset * 8)  # far more than fits into the buffers of both ends
        for _ in range(13):  # longer than it may stand still, with the time between two checks
            time.sleep(0.3)
            assert source.recv(4096)


@pytest.mark.parametrize("path", ["/nowhere", "/v1/models", "/v1/steering/profiles/unknown"])
def test_a_client_that_sends_its_whole_body_first_gets_an_answer_that_needs_none(
    quick: Serving, path: str
) -> None:
    body = b"[" + b" " * (12 * 2**20) + b"]"  # more than the buffers of both ends hold
    headers = {**HOST, **JSON, "Content-Length": str(len(body))}
    with connect(quick) as source:
        for _ in range(2):  # the connection goes on
            source.sendall(head("PUT", path, headers) + body)
            assert read_answer(source).status in (404, 405)


@pytest.mark.parametrize("path", ["/nowhere", "/v1/models"])
def test_an_endless_body_is_not_read_after_its_answer(quick: Serving, path: str) -> None:
    with connect(quick) as source:
        source.sendall(post(10**12, b"{").replace(CHAT.encode(), path.encode()))
        assert read_answer(source).status in (404, 405)
        sent = 0
        with contextlib.suppress(OSError):
            while sent < 100 * 2**20:
                sent += source.send(b" " * 65536)
        assert sent < 60 * 2**20


def test_who_never_reads_pongs_holds_no_memory(quick: Serving) -> None:
    process = psutil.Process(quick.process.pid)
    with connect(quick) as source:
        source.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        source.sendall(head("GET", "/v1/responses", {**HOST, **WEBSOCKET}))
        before = process.memory_info().rss
        ping = b"\x89\xfd\0\0\0\0" + b"a" * 125
        with contextlib.suppress(OSError):
            for _ in range(200):
                source.sendall(ping * 2000)
        assert process.memory_info().rss - before < 20 * 2**20
        assert is_served(quick)


def test_a_message_in_endless_fragments_ends(quick: Serving) -> None:
    process = psutil.Process(quick.process.pid)
    with connect(quick) as source:
        source.sendall(head("GET", "/v1/responses", {**HOST, **WEBSOCKET}))
        assert read_answer(source).status == 101
        before = process.memory_info().rss
        with contextlib.suppress(OSError):
            source.sendall(b"\x01\x80\0\0\0\0")
            for _ in range(100):
                source.sendall(b"\x00\x80\0\0\0\0" * 10_000)
        assert process.memory_info().rss - before < 20 * 2**20
        assert is_closed(source, within_s=60)


# -- the end ---------------------------------------------------------------------------------------------

MANY = {f"a{i}": "b" for i in range(150)}
STATES = {
    "nothing": b"",
    "half a head": b"GET / HTT",
    "half a body": post(1000, b"{"),
    "half a chunk": head("POST", CHAT, CHUNKED) + b"5\r\na",
    "an answer": HEALTH,
    "an answer before the body": post(1000, b"{").replace(CHAT.encode(), b"/nowhere"),
    "a refusal": b"garbage\r\n\r\n",
    "a WebSocket": head("GET", "/v1/responses", {**HOST, **WEBSOCKET}),
    "a WebSocket with a large header": head("GET", "/v1/responses", {**HOST, **WEBSOCKET, "a": "b" * 9000}),
    "a WebSocket with many headers": head("GET", "/v1/responses", {**HOST, **WEBSOCKET, **MANY}),
    "a WebSocket with a body": head("GET", "/v1/responses", {**HOST, **WEBSOCKET, "Content-Length": "5"}),
    "half a WebSocket's head": head("GET", "/v1/responses", {**HOST, **WEBSOCKET})[:-2],
    "half a frame": head("GET", "/v1/responses", {**HOST, **WEBSOCKET}) + b"\x81\xfe",
}  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly_with_connections_in_any_state(tmp_path: Path, number: int) -> None:
    with gateway(tmp_path) as gate, ExitStack() as exits:
        for sent in STATES.values():
            exits.enter_context(connect(gate)).sendall(sent)
        assert is_served(gate)
        gate.process.send_signal(number)
        assert gate.process.wait(60) == 0
        log = gate.log.read_text()
    assert "Traceback" not in log
    assert "Cancel" not in log
