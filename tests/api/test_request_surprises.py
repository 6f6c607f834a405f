"""Surprises in what callers send: methods, paths, headers, query parameters, bodies and frames."""

from __future__ import annotations

import json
import math
import socket
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.api.relays import CALLERS, HI, Relays

CHAT = {"model": "fa:m", "messages": HI}
KEY = {"Authorization": f"Bearer {CALLERS}"}
BOM = b"\xef\xbb\xbf"


def exchange(relay: Relays, head: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
    """Send a request as it is, and return the answer's status, headers and body."""
    own = f"Host: localhost\r\nAuthorization: Bearer {CALLERS}\r\nConnection: close\r\n"
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    with socket.create_connection(("127.0.0.1", relay.served.port), timeout=60) as connection:
        connection.sendall(f"{head}\r\n{own}{length}\r\n".encode("latin-1") + body)
        received = b""
        while piece := connection.recv(2**16):
            received += piece
    answer, _, rest = received.partition(b"\r\n\r\n")
    first, *fields = answer.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
    return int(first.split(" ")[1]), headers, rest


PATHS = (
    "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/messages/count_tokens", "/v1/responses",
    "/v1/embeddings", "/v1/rerank", "/v1/tokenize", "/v1/models", "/v1/conversations", "/health", "/api/chat",
)  # fmt: skip


@pytest.mark.parametrize("method", ["PUT", "PATCH", "TRACE", "BREW"])
@pytest.mark.parametrize("path", PATHS)
def test_a_method_that_is_not_there_is_a_405_with_those_that_are(
    relay: Relays, path: str, method: str
) -> None:
    if method == "BREW":  # the server knows no such method
        assert exchange(relay, f"{method} {path} HTTP/1.1")[0] in (400, 405)
        return
    status, headers, body = exchange(relay, f"{method} {path} HTTP/1.1")
    assert status == 405
    assert set(headers["allow"].split(", ")) & {"GET", "POST"}
    assert json.loads(body)["error"]


ODD_IDS = (
    "%00",
    "%ed%a0%80",
    "%ff",
    "..",
    "%2e%2e",
    "conv_%00",
    "a" * 5000,
    "%",
    "%zz",
    "a%20b",
    "conv_x'--",
)


@pytest.mark.parametrize("id", ODD_IDS)
def test_an_odd_id_is_nobodys(relay: Relays, id: str) -> None:
    for path in ("conversations", "responses", "chat/completions", "models", "conversations/conv_x/items"):
        for method in ("GET", "DELETE"):
            status, _, body = exchange(relay, f"{method} /v1/{path}/{id} HTTP/1.1")
            assert status in (400, 403, 404, 405)
            assert json.loads(body)["error"]["message"]


@pytest.mark.parametrize(
    "query", ["limit=1&limit=2", "order=asc&order=desc", "after=a&after=b", "search=a&search=b"]
)
def test_two_values_of_a_parameter_are_refused(relay: Relays, query: str) -> None:
    status, _, body = exchange(relay, f"GET /v1/conversations?{query} HTTP/1.1")
    assert status == 400
    assert json.loads(body)["error"]["param"] == query.partition("=")[0]


INCLUDED = "include=message.output_text.logprobs&include=reasoning.encrypted_content"


@pytest.mark.parametrize("query", ["limit=2&limit=2", INCLUDED, ""])
def test_a_parameter_that_is_repeated_or_a_list_is_read(relay: Relays, query: str) -> None:
    assert exchange(relay, f"GET /v1/conversations?{query} HTTP/1.1")[0] == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", CHAT),
        ("/v1/responses", {"model": "fa:m", "input": "hi"}),
        ("/v1/messages", {**CHAT, "max_tokens": 5}),
        ("/api/chat", {**CHAT, "stream": False}),
    ],
)
def test_a_byte_order_mark_before_a_body_is_skipped(relay: Relays, path: str, body: Any) -> None:
    status, _, answer = relay.ask(path, BOM + json.dumps(body).encode())
    assert (status, "error" in json.loads(answer) and json.loads(answer)["error"]) in (
        (200, False),
        (200, None),
    )


ODD_HEADERS = (
    "X-Conversation-ID: \xff", "X-Conversation-ID: ../..", "X-Conversation-ID: new\r\nX-Conversation-ID: x",
    "X-Request-ID: \xff", "X-Request-ID: " + "a" * 5000, "X-Headrace-Strict: maybe", "Accept: \xff;q=x",
    "Accept: image/png", "Range: bytes=0-1", "Idempotency-Key: \xff", "traceparent: \xff",
)  # fmt: skip


@pytest.mark.parametrize("header", ODD_HEADERS)
def test_an_odd_header_is_no_failure_of_ours(relay: Relays, header: str) -> None:
    head = f"POST /v1/chat/completions HTTP/1.1\r\nContent-Type: application/json\r\n{header}"
    status, _, body = exchange(relay, head, json.dumps(CHAT).encode())
    assert status in (200, 400, 404)
    assert (status == 200) == ("error" not in json.loads(body))


CREATE = {"type": "response.create", "model": "fa:m", "input": "hi", "store": False}


def opened(relay: Relays) -> ClientConnection:
    url = relay.served.url.replace("http", "ws", 1) + "/v1/responses"
    return connect(url, additional_headers=KEY, max_size=None)


def heard(connection: ClientConnection) -> str:
    """The last event of a turn: its type, and the code of an error."""
    while True:
        event = json.loads(connection.recv(60))
        if event["type"] == "error":
            return f"error {event['error']['code']}"
        if event["type"] in ("response.completed", "response.failed", "response.incomplete"):
            return str(event["type"])


TEXT = json.dumps(CREATE)
FRAMES: dict[str, tuple[Any, str]] = {
    "binary": (TEXT.encode(), "response.completed"),
    "in fragments": ([TEXT[:9], TEXT[9:40], TEXT[40:]], "response.completed"),
    "a mark before it": ("\ufeff" + TEXT, "response.completed"),
    "nothing": ("", "error invalid_json"),
    "no UTF-8": (b"\xff\xfe", "error invalid_json"),
    "a list": ("[]", "error invalid_json"),
    "half a pair": (r'{"type": "response.create", "model": "fa:m", "input": "\ud800"}', "error invalid_json"),
    "no number": (json.dumps({**CREATE, "temperature": math.nan}), "error invalid_json"),
    "an infinite number": (json.dumps({**CREATE, "top_p": -math.inf}), "error invalid_json"),
    "another type": ('{"type": "response.cancel"}', "error invalid_value"),
    "no type": ('{"model": "fa:m"}', "error invalid_value"),
    "a type that is a number": ('{"type": 5}', "error invalid_value"),
}


@pytest.mark.parametrize("name", FRAMES)
def test_an_odd_frame_is_answered_and_the_connection_goes_on(relay: Relays, name: str) -> None:
    frame, expected = FRAMES[name]
    with opened(relay) as connection:
        connection.send(frame)
        assert heard(connection) == expected
        connection.send(TEXT)
        assert heard(connection) == "response.completed"


def test_a_frame_of_16_mb_closes_its_connection_alone(relay: Relays) -> None:
    with opened(relay) as other, opened(relay) as connection:
        connection.send("x" * (16 * 2**20 + 1))
        with pytest.raises(ConnectionClosed, match="1009"):
            connection.recv(60)
        other.send(TEXT)
        assert heard(other) == "response.completed"


def test_pings_do_not_hold_up_a_turn(relay: Relays) -> None:
    with opened(relay) as connection:
        for number in range(1000):
            connection.ping(str(number))
        connection.send(TEXT)
        assert heard(connection) == "response.completed"
