"""The real server, and HTTP that is written by hand: what a well-behaved client cannot send."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cli.process import Serving, serving

CONFIG = """
[models]
default = ""
[providers.fake]
kind = "fake"
models = ["fake"]
"""
CHAT = "/v1/chat/completions"
QUESTION = b'{"model": "fake", "messages": [{"role": "user", "content": "hi"}]}'
JSON = {"Content-Type": "application/json"}
HOST = {"Host": "localhost"}
CHUNKED = {**HOST, **JSON, "Transfer-Encoding": "chunked"}
QUICK = "[server]\nreceive_timeout_s = 1\nsend_timeout_s = 2\n"
WEBSOCKET = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response. `headers`: names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The error in OpenAI's shape, after checking that it has this shape."""
        found: dict[str, Any] = json.loads(self.body)["error"]
        assert set(found) == {"message", "type", "param", "code"}
        assert found["message"]
        return found


@contextmanager
def gateway(path: Path, *arguments: str, prefix: Sequence[str] = (), config: str = "") -> Iterator[Serving]:
    """`headrace serve` over the scripted backend, which starts without a model. `config`: more TOML."""
    (path / "headrace.toml").write_text(CONFIG + config)
    with serving(*arguments, cwd=path, prefix=prefix) as server:
        yield server


def port_of(server: Serving) -> int:
    return int(server.url.rpartition(":")[2])


def connect(server: Serving, *, timeout_s: float = 20) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port_of(server)), timeout=timeout_s)


def head(method: str, target: str, headers: Mapping[str, str] | Sequence[tuple[str, str]]) -> bytes:
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in pairs)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def read_answer(source: socket.socket, *, has_body: bool = True) -> Answer:
    """One response, with its body if there is one (HEAD has none). Raises EOFError where the connection ends
    before it.
    """
    file = source.makefile("rb")
    line = file.readline()
    if not line:
        raise EOFError("the connection was closed without an answer")
    headers: dict[str, str] = {}
    while (field := file.readline()) not in (b"\r\n", b""):
        name, _, value = field.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    return Answer(int(line.split()[1]), headers, _body(file, headers) if has_body else b"")


def _body(file: Any, headers: Mapping[str, str]) -> bytes:
    if "content-length" in headers:
        return bytes(file.read(int(headers["content-length"])))
    if headers.get("transfer-encoding") != "chunked":
        return b"" if headers.get("upgrade") else bytes(file.read())
    body = b""
    while size := int(file.readline(), 16):
        body += file.read(size)
        file.readline()
    file.readline()
    return body


def exchange(server: Serving, sent: bytes) -> Answer:
    """What is answered to these bytes, on a connection of their own."""
    with connect(server) as source:
        source.sendall(sent)
        return read_answer(source, has_body=not sent.startswith(b"HEAD "))


def ask(
    server: Serving,
    method: str,
    target: str,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    *,
    host: str | None = None,
) -> Answer:
    """One request. Default of `host`: what a client would send; "": none."""
    named = f"127.0.0.1:{port_of(server)}" if host is None else host
    length = {"Content-Length": str(len(body))} if body else {}
    all_headers = {**({"Host": named} if named else {}), **length, **(headers or {})}
    return exchange(server, head(method, target, all_headers) + body)


def is_closed(source: socket.socket, *, within_s: float) -> bool:
    """Whether the server closes the connection in time. What it sends before is read."""
    deadline = time.monotonic() + within_s
    while (left_s := deadline - time.monotonic()) > 0:
        source.settimeout(left_s)
        try:
            if not source.recv(65536):
                return True
        except TimeoutError:
            return False
        except ConnectionError:
            return True
    return False


HEALTH = head("GET", "/health", HOST)


def post(length: int, sent: bytes = b"", **headers: str) -> bytes:
    return head("POST", CHAT, {**HOST, **JSON, "Content-Length": str(length), **headers}) + sent


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x%s\r\n%s\r\n" % (len(data), extension, data)


def is_served(gate: Serving) -> bool:
    return ask(gate, "GET", "/health").status == 200 and ask(gate, "POST", CHAT, JSON, QUESTION).status == 200
