"""What may be sent: sizes of heads and targets, odd requests, pipelines. Everything is answered."""

from __future__ import annotations

import contextlib
import re
import socket

import pytest

from tests.cli.process import Serving
from tests.security.raw import (
    CHAT,
    CHUNKED,
    HEALTH,
    HOST,
    QUESTION,
    WEBSOCKET,
    chunk,
    connect,
    exchange,
    head,
    is_closed,
    is_served,
    post,
    read_answer,
)

# -- how large -------------------------------------------------------------------------------------------

K = 1024


def sized(total: int) -> bytes:
    """A head of so many bytes, in headers of 8 KB."""
    request = head("GET", "/health", [("Host", "localhost"), *[("a", "b" * 8000)] * (total // 8100)])
    return request[:-2] + b"c: " + b"d" * (total - len(request) - 5) + b"\r\n\r\n"


@pytest.mark.parametrize("pieces", [1, 40, 4000])
@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(sized(60 * K), 200, id="60 KB"),
        pytest.param(sized(66 * K), 431, id="66 KB"),
        pytest.param(sized(1000 * K), 431, id="1 MB"),
        pytest.param(head("GET", "/health", {**HOST, "a": "b" * 63 * K}), 200, id="one of 63 KB"),
        pytest.param(head("GET", "/health", {**HOST, "a": "b" * 300 * K}), 431, id="one of 300 KB"),
        pytest.param(head("GET", "/health", {**HOST, "a" * 300 * K: "b"}), 431, id="a name of 300 KB"),
        pytest.param(head("GET", "/health", {**HOST, "a": " " * 900 * K}), 431, id="spaces"),
        pytest.param(head("GET", "/health", [*HOST.items(), *[("a", "b")] * 127]), 200, id="128 headers"),
        pytest.param(head("GET", "/health", [*HOST.items(), *[("a", "b")] * 128]), 431, id="129 headers"),
        pytest.param(head("GET", "/health", [*HOST.items(), ("", "b")]), 400, id="no name"),
        pytest.param(head("GET", "/health?" + "a" * 16_370, HOST), 200, id="target of 16 KB"),
        pytest.param(head("GET", "/health?" + "a" * 16_380, HOST), 414, id="target of more"),
        pytest.param(head("GET", "/" + "a" * 2_000_000, HOST), 414, id="target of 2 MB"),
        pytest.param(head("GET", "http://localhost/" + "a" * 20_000, HOST), 414, id="absolute target"),
    ],
)
def test_heads_and_targets_have_limits(gate: Serving, sent: bytes, status: int, pieces: int) -> None:
    size = -(-len(sent) // pieces)
    with connect(gate) as source:
        source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ConnectionError):
            for begin in range(0, len(sent), size):
                source.sendall(sent[begin : begin + size])
        answer = read_answer(source)
        assert answer.status == status
        if status != 200:
            assert answer.error["type"] == "invalid_request_error"
            assert is_closed(source, within_s=60)


@pytest.mark.parametrize(
    "start", [b"GET /", b"GET / HTTP/1.1\r\na: ", b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\n"]
)
def test_an_endless_head_is_not_read_to_its_end(gate: Serving, start: bytes) -> None:
    with connect(gate) as source:
        sent = 0
        with contextlib.suppress(ConnectionError):
            source.sendall(start)
            while sent < 100 * 2**20:
                sent += source.send(b"a" * 65536)
        assert sent < 40 * 2**20
    assert is_served(gate)


@pytest.mark.parametrize(
    ("target", "headers", "status"),
    [
        pytest.param("/v1/responses", {"a": "b" * 9000}, 431, id="a large header"),
        pytest.param("/v1/responses", {f"a{i}": "b" for i in range(130)}, 431, id="many headers"),
        pytest.param("/v1/responses", {f"a{i}": "b" for i in range(122)}, 101, id="as many as there may be"),
        pytest.param("/v1/responses", {"Cookie": "b" * 100_000}, 431, id="a cookie of 100 KB"),
        pytest.param("/v1/responses?" + "a" * 9000, {}, 414, id="a long target"),
        pytest.param("/v1/responses", {"Content-Length": "2"}, 400, id="a body"),
        pytest.param("/v1/responses", {"Transfer-Encoding": "chunked"}, 400, id="a chunked body"),
        pytest.param("/v1/responses", {"Sec-WebSocket-Version": "12"}, 400, id="an old version"),
        pytest.param("/v1/responses", {"Sec-WebSocket-Key": "x"}, 400, id="a wrong key"),
        pytest.param("/v1/responses", {"a": "\xe9"}, 101, id="a header in latin-1"),
        pytest.param("/nowhere", {}, 403, id="no such path"),
    ],
)
def test_websocket_upgrades_are_answered(
    gate: Serving, target: str, headers: dict[str, str], status: int
) -> None:
    body = b"2\r\n{}\r\n0\r\n\r\n" if "Transfer-Encoding" in headers else b"{}"
    has_body = any(name in headers for name in ("Content-Length", "Transfer-Encoding"))
    sent = head("GET", target, {**HOST, **WEBSOCKET, **headers}) + (body if has_body else b"")
    with connect(gate) as source:
        source.sendall(sent)
        answer = read_answer(source)
        assert answer.status == status
        if status != 101:
            assert answer.error["type"] == "invalid_request_error"
            assert is_closed(source, within_s=60)


# -- what is odd -----------------------------------------------------------------------------------------

TE = "Transfer-Encoding: chunked"
ODD = {
    "both lengths": (f"POST {CHAT} HTTP/1.1|Content-Length: 2|{TE}||{{}}", 400),
    "both lengths, the other way": (f"POST {CHAT} HTTP/1.1|{TE}|Content-Length: 2||2|{{}}|0||", 400),
    "two lengths": (f"POST {CHAT} HTTP/1.1|Content-Length: 2|Content-Length: 3||{{}}", 400),
    "a list of lengths": (f"POST {CHAT} HTTP/1.1|Content-Length: 2, 2||{{}}", 400),
    "a length with a sign": (f"POST {CHAT} HTTP/1.1|Content-Length: +2||{{}}", 400),
    "a negative length": (f"POST {CHAT} HTTP/1.1|Content-Length: -1||", 400),
    "a huge length": (f"POST {CHAT} HTTP/1.1|Content-Length: {10**30}||", 400),
    "a space before the colon": ("GET /health HTTP/1.1|Content-Length : 2||", 400),
    "another encoding": (f"POST {CHAT} HTTP/1.1|Transfer-Encoding: gzip||", 501),
    "an encoding before chunked": (f"POST {CHAT} HTTP/1.1|Transfer-Encoding: gzip, chunked||0||", 501),
    "identity": (f"POST {CHAT} HTTP/1.1|Transfer-Encoding: identity||", 501),
    "chunked twice": (f"POST {CHAT} HTTP/1.1|{TE}, chunked||0||", 400),
    "chunked, nearly": (f"POST {CHAT} HTTP/1.1|Transfer-Encoding: xchunked||0||", 501),
    "chunked in HTTP/1.0": (f"POST {CHAT} HTTP/1.0|{TE}||0||", 400),
    "a size that is none": (f"POST {CHAT} HTTP/1.1|{TE}||zz|", 400),
    "a size that is too large": (f"POST {CHAT} HTTP/1.1|{TE}||{'f' * 30}|", 400),
    "more than the chunk": (f"POST {CHAT} HTTP/1.1|{TE}||2|{{}}}}|0||", 400),
    "a folded header": ("GET /health HTTP/1.1|a: b| c||", 400),
    "a null byte in a header": ("GET /health HTTP/1.1|a: b\0c||", 400),
    "a null byte in the path": ("GET /hea\0lth HTTP/1.1||", 400),
    "an escaped null byte in the path": ("GET /v1/models/a%00b HTTP/1.1||", 400),
    "an escaped line end in the path": ("GET /v1/models/a%0d%0Ab HTTP/1.1||", 400),
    "another encoded control character": ("GET /v1/models/a%7Fb HTTP/1.1||", 400),
    "HTTP/0.9": ("GET /health||", 505),
    "HTTP/1.2": ("GET /health HTTP/1.2||", 400),
    "HTTP/2": ("GET /health HTTP/2.0||", 505),
    "HTTP/2's preface": ("PRI * HTTP/2.0||SM||", 400),
    "no HTTP": ("hello|", 400),
    "TLS": ("\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", 400),
    "a method that is none": ("FOO /health HTTP/1.1||", 400),
    "a method in lower case": ("get /health HTTP/1.1||", 400),
    "CONNECT": ("CONNECT localhost:80 HTTP/1.1||", 405),
    "TRACE": ("TRACE /health HTTP/1.1||", 405),
    "OPTIONS *": ("OPTIONS * HTTP/1.1||", 404),
    "a target without a slash": ("GET health HTTP/1.1||", 400),
    "another scheme": ("GET ftp://localhost/health HTTP/1.1||", 400),
    "a name in the target": ("GET http://localhost@evil.example/health HTTP/1.1||", 400),
    "an absolute target": ("GET http://localhost/health HTTP/1.1||", 200),
    "an absolute target without a path": ("GET http://localhost?a HTTP/1.1||", 200),
    "an absolute target elsewhere": ("GET http://evil.example/health HTTP/1.1||", 403),
    "two slashes": ("GET //v1/models HTTP/1.1||", 404),
    "dots": ("GET /v1/../health HTTP/1.1||", 404),
    "an escaped path": ("GET /%68ealth HTTP/1.1||", 200),
    "a key in the query": ("GET /v1/models?api_key=k&key=k HTTP/1.1||", 200),
    "an unknown expectation": ("GET /health HTTP/1.1|Expect: 200-ok||", 417),
    "an upgrade to HTTP/2": ("GET /health HTTP/1.1|Connection: Upgrade|Upgrade: h2c||", 200),
    "HTTP/1.0": ("GET /health HTTP/1.0||", 200),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_what_is_odd_gets_a_clear_answer(gate: Serving, name: str) -> None:
    sent, status = _odd(name)
    answer = exchange(gate, sent)
    assert answer.status == status
    if status != 200:
        assert answer.error["type"] == "invalid_request_error"
        assert len(answer.body) < 500


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("is_pipelined", [False, True])
def test_it_gets_the_same_answer_after_another_request(
    gate: Serving, name: str, *, is_pipelined: bool
) -> None:
    sent, status = _odd(name)
    with connect(gate) as source:
        if is_pipelined:
            body = QUESTION[:-1] + b', "stream": true}'
            source.sendall(post(len(body), body) + sent)
        else:
            source.sendall(HEALTH)
            assert read_answer(source).status == 200
            source.sendall(sent)
        source.settimeout(20)
        said = b""
        while len(re.findall(rb"HTTP/1\.1 \d", said)) < 1 + is_pipelined and (data := source.recv(65536)):
            said += data
    first, *rest = re.findall(rb"HTTP/1\.1 (\d+)", said)
    assert [int(one) for one in (first, *rest)] == ([200, status] if is_pipelined else [status])
    if is_pipelined:
        assert b"data: [DONE]" in said.rpartition(b"HTTP/1.1 ")[0]


def _odd(name: str) -> tuple[bytes, int]:
    """What is sent, and the status of its answer."""
    text, status = ODD[name]
    line, separator, rest = text.replace("|", "\r\n").partition("\r\n")
    sent = f"{line}{separator}Host: localhost\r\n{rest}" if " HTTP/1" in line else text.replace("|", "\r\n")
    return sent.encode("latin-1"), status


@pytest.mark.parametrize("pieces", [1, 30])
@pytest.mark.parametrize("protocol", ["h2c", "foo/2", "TLS/1.0, HTTP/1.1"])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_who_would_rather_speak_another_protocol_is_served_in_this(
    gate: Serving, protocol: str, is_chunked: bool, pieces: int
) -> None:
    wanted = {
        "Connection": "Upgrade, HTTP2-Settings",
        "Upgrade": protocol,
        "HTTP2-Settings": "AAEAAEAAAAIAAAAB",
    }
    if is_chunked:
        body = chunk(QUESTION[:20]) + chunk(QUESTION[20:]) + b"0\r\n\r\n"
        request = head("POST", CHAT, {**CHUNKED, **wanted}) + body
    else:
        request = post(len(QUESTION), QUESTION, **wanted)
    raw = request + head("GET", "/health", {**HOST, **wanted}) + request + HEALTH
    size = -(-len(raw) // pieces)
    with connect(gate) as source, source.makefile("rb") as file:
        for begin in range(0, len(raw), size):
            source.sendall(raw[begin : begin + size])
        statuses: list[int] = []
        while len(statuses) < 4:
            line = file.readline()
            assert line, "the connection was closed"
            if found := re.match(rb".*HTTP/1.1 (\d+) ", line):
                statuses.append(int(found[1]))
    assert statuses == [200] * 4


def test_a_stream_to_http_1_0_has_no_chunks(gate: Serving) -> None:
    body = QUESTION[:-1] + b', "stream": true}'
    sent = post(len(body), body).replace(b"HTTP/1.1", b"HTTP/1.0")
    answer = exchange(gate, sent)
    assert "transfer-encoding" not in answer.headers
    assert answer.body.startswith(b"data: {")
    assert answer.body.endswith(b"data: [DONE]\n\n")


def test_the_body_is_asked_for_where_the_client_waits_for_that(gate: Serving) -> None:
    with connect(gate) as source:
        source.sendall(post(len(QUESTION), Expect="100-continue"))
        assert source.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        source.sendall(QUESTION)
        assert read_answer(source).status == 200


@pytest.mark.parametrize(
    "refused", [{"Content-Type": "text/plain"}, {"Origin": "null"}, {"Host": "evil.example"}]
)
def test_the_body_is_not_asked_for_where_it_would_be_refused(gate: Serving, refused: dict[str, str]) -> None:
    answer = exchange(gate, post(len(QUESTION), b"", **{"Expect": "100-continue", **refused}))
    assert answer.status in (403, 415)


def test_a_body_that_breaks_before_it_was_asked_for_is_refused_once(gate: Serving) -> None:
    sent = head("POST", CHAT, {**CHUNKED, "Expect": "100-continue"}) + b"zz\r\n"
    answer = exchange(gate, sent)
    assert answer.status == 400
    assert "Traceback" not in gate.log.read_text()


def test_refused_websockets_are_no_errors_of_ours(gate: Serving) -> None:
    for headers in ({"Origin": "null"}, {"Host": "evil.example"}, {}):
        target = "/v1/responses" if headers else "/nowhere"
        assert exchange(gate, head("GET", target, {**HOST, **WEBSOCKET, **headers})).status == 403
    assert " ERROR " not in gate.log.read_text()


@pytest.mark.parametrize("number", [2, 10, 17])
def test_pipelined_requests_are_answered_in_turn(gate: Serving, number: int) -> None:
    requests = [post(len(QUESTION), QUESTION, **{"X-Request-ID": f"r{i}"}) for i in range(number)]
    with connect(gate) as source, source.makefile("rb") as file:
        source.sendall(b"".join(requests))
        ids: list[str] = []
        while len(ids) < number:
            line = file.readline().lower()
            assert line, "the connection was closed"
            if line.startswith(b"x-request-id"):
                ids.append(line.split()[1].decode())
    assert ids == [f"r{i}" for i in range(number)]


@pytest.mark.parametrize(
    ("after", "status"),
    [
        pytest.param(b"garbage\r\n\r\n", 400, id="garbage"),
        pytest.param(head("GET", "/" + "a" * 20_000, HOST), 414, id="a long target"),
        pytest.param(
            post(2, b"{}").replace(b"Content-Length", b"Content-Length: 2\r\nContent-Length"),
            400,
            id="lengths",
        ),
        pytest.param(head("GET", "/v1/responses", {**HOST, **WEBSOCKET}), 400, id="a WebSocket"),
        pytest.param(HEALTH * 500, 400, id="too many"),
        pytest.param(head("POST", CHAT, CHUNKED) + b"zz\r\n", 400, id="a broken body"),
    ],
)
def test_what_is_wrong_after_a_request_waits_for_its_answer(gate: Serving, after: bytes, status: int) -> None:
    body = QUESTION[:-1] + b', "stream": true}'
    with connect(gate) as source:
        source.sendall(post(len(body), body) + after)
        said = b""
        while data := source.recv(65536):
            said += data
    stream, _, rest = said.partition(b"0\r\n\r\n")
    assert stream.startswith(b"HTTP/1.1 200")
    assert stream.endswith(b"data: [DONE]\n\n\r\n")
    last = rest[rest.rindex(b"HTTP/1.1 ") :]
    assert int(last.split()[1]) == status
    assert last.count(b'"error"') == 1


def test_extensions_and_trailers_have_limits(gate: Serving) -> None:
    begin = head("POST", CHAT, CHUNKED)
    assert exchange(gate, begin + chunk(QUESTION, b";a=b") + b"0\r\nTrailer: x\r\n\r\n").status == 200
    tiny = b"".join(chunk(QUESTION[i : i + 1]) for i in range(len(QUESTION)))
    assert exchange(gate, begin + tiny + b"0\r\n\r\n").status == 200
    for endless, status in (
        (b"1;" + b"a" * 2_000_000, 400),
        (chunk(b" ", b";" + b"a" * 30_000) * 100, 400),
        (chunk(QUESTION) + b"0\r\n" + b"a: b\r\n" * 200, 431),
        (chunk(QUESTION) + b"0\r\na: " + b"b" * 2_000_000, 400),
        (chunk(QUESTION) + b"0\r\n" + b"Host: evil\r\nContent-Length: 5\r\n\r\n", 400),
    ):
        with connect(gate) as source:
            with contextlib.suppress(ConnectionError):
                source.sendall(begin + endless)
            answer = read_answer(source)
            assert answer.status == status, (endless[:40], answer)


def test_trailers_are_no_headers(gate: Serving) -> None:
    sent = (
        head("POST", CHAT, CHUNKED)
        + chunk(QUESTION)
        + b"0\r\nX-Request-ID: mine\r\nOrigin: https://evil\r\n\r\n"
    )
    answer = exchange(gate, sent)
    assert answer.status == 200
    assert answer.headers["x-request-id"] != "mine"


def test_refusals_do_not_fill_the_log(gate: Serving) -> None:
    size = gate.log.stat().st_size
    for _ in range(200):
        assert exchange(gate, b"garbage\r\n\r\n").status == 400
    assert gate.log.stat().st_size - size < 1000
