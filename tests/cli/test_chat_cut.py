"""`headrace chat` and answers that are not whole; how it reaches a server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from headrace.backends.fake import FakeBackend
from headrace.types import Finished, FinishReason, Usage
from tests.cli.process import headrace
from tests.cli.terminal import terminal
from tests.conftest import FakeServer


def ending(reason: FinishReason) -> FakeBackend:
    return FakeBackend(["Hello", Finished(0, reason, Usage(1, 1))])


@pytest.mark.parametrize(
    ("reason", "notice"),
    [
        ("stop", ""),
        ("length", "(cut: the answer has reached its limit of tokens)"),
        ("content_filter", "(cut: a filter has ended the answer)"),
        ("tool_calls", "(the answer ended with 'tool_calls')"),
    ],
)
def test_a_notice_follows_an_answer_that_is_cut(
    fake_server: FakeServer, tmp_path: Path, reason: FinishReason, notice: str
) -> None:
    done = headrace("chat", "--port", str(fake_server(ending(reason)).port), cwd=tmp_path, text="hi\n")
    assert (done.returncode, done.stdout) == (0, "Hello\n")
    assert notice in done.stderr
    assert ("(" in done.stderr) is bool(notice)


def chunk(text: str, reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": reason}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


@contextmanager
def playing(pieces: Sequence[bytes], *, breaks: bool = False) -> Iterator[str]:
    """A server whose every answer is these pieces; `breaks`: it closes the connection before the end."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = {"status": "ok", "data": [{"id": "m"}]}
            self._send(json.dumps(body).encode())

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for piece in pieces:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"20\r\nshort" if breaks else b"0\r\n\r\n")
            self.close_connection = True

        def _send(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever).start()
    try:
        yield str(server.server_port)
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("pieces", "breaks"),
    [
        pytest.param([chunk("Hel")], False, id="no end"),
        pytest.param([chunk("Hel"), b"data: [DONE]\n\n"], False, id="no reason"),
        pytest.param([chunk("Hel")], True, id="a broken connection"),
        pytest.param([chunk("Hel"), b'data: {"choi\n\n'], False, id="half an event"),
        pytest.param([chunk("Hel"), b"data: \xff\xfe\n\n"], False, id="no text"),
        pytest.param([chunk("Hel"), b"data: [1]\n\n"], False, id="another shape"),
    ],
)
def test_a_notice_follows_an_answer_that_breaks_off(
    tmp_path: Path, pieces: Sequence[bytes], breaks: bool
) -> None:
    with playing(pieces, breaks=breaks) as port:
        done = headrace("chat", "--port", port, cwd=tmp_path, text="hi\n")
    assert (done.returncode, done.stdout) == (0, "Hel\n")
    assert done.stderr.count("(cut: the connection broke before the answer was complete)") == 1
    assert "Traceback" not in done.stderr


def test_thoughts_are_shown_in_a_terminal_and_in_no_file(tmp_path: Path) -> None:
    choice = {"index": 0, "delta": {"reasoning_content": "Six times seven."}, "finish_reason": None}
    thought = b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"
    with playing([thought, chunk("It is 42.", "stop")]) as port:
        done = headrace("chat", "--port", port, cwd=tmp_path, text="What is it?\n")
        assert (done.returncode, done.stdout, done.stderr) == (0, "It is 42.\n", "")
        for more in ((), ("--plain",)):
            with terminal("chat", "--port", port, *more, cwd=tmp_path) as chat:
                chat.until(">")
                chat.enter("What is it?")
                chat.until("It is 42.")
                assert "Six times seven." in chat.lines


def test_a_whole_answer_with_comments_and_empty_lines_is_no_cut_one(tmp_path: Path) -> None:
    pieces = [b": ping\n\n", b"event: x\ndata:" + chunk("Hi")[5:], chunk("", "stop"), b"data: [DONE]\n\n"]
    with playing(pieces) as port:
        done = headrace("chat", "--port", port, cwd=tmp_path, text="hi\n")
    assert done.stdout == "Hi\n"
    assert "cut" not in done.stderr


def test_an_answer_cannot_change_the_terminal(fake_server: FakeServer, tmp_path: Path) -> None:
    server = fake_server(FakeBackend(["a\x1b[2J", "b\tc\nd\r", "\u202e Grüße 🌊"]))
    done = headrace("chat", "--port", str(server.port), cwd=tmp_path, text="hi\n")
    assert done.stdout == "a\\x1b[2Jb\tc\nd\\r\\u202e Grüße 🌊\n"


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_this_machine_is_reached_without_the_systems_proxy(
    fake_server: FakeServer, tmp_path: Path, name: str
) -> None:
    members = {name: "http://127.0.0.1:9", "no_proxy": "", "NO_PROXY": ""}
    done = headrace("chat", "--port", str(fake_server().port), cwd=tmp_path, text="hi\n", **members)
    assert (done.returncode, done.stdout) == (0, "Hello world\n")


def test_a_server_that_listens_everywhere_is_reached_here(fake_server: FakeServer, tmp_path: Path) -> None:
    port = str(fake_server().port)
    done = headrace("chat", "--host", "0.0.0.0", "--no-auth", "--port", port, cwd=tmp_path, text="hi\n")
    assert (done.returncode, done.stdout) == (0, "Hello world\n")
