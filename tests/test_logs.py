"""One record, one line: nothing that callers, files or providers name can look like a line of the log."""

from __future__ import annotations

import json
import logging
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from headrace import logs
from headrace.models.catalog import Model
from tests.cli.process import Serving, headrace, of, serving
from tests.serving import eventually

FORGED = "2026-11-29 08:00:00,000 ERROR   [-] headrace.store: forged"
BEGIN = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ +\[")
NASTY = [
    pytest.param(f"a\n{FORGED}", id="line end"),
    pytest.param(f"a\r\n{FORGED}", id="carriage return"),
    pytest.param(f"a\x0b{FORGED}\x0c{FORGED}", id="vertical tab, form feed"),
    pytest.param(f"a\x85{FORGED}\u2028{FORGED}\u2029{FORGED}", id="line ends of Unicode"),
    pytest.param("a\x1b[2J\x1b]0;title\x07\x9b31m", id="escape sequences"),
    pytest.param("a\x00\x08\x7f", id="other control characters"),
    pytest.param("a\u202egnp.exe\u2066", id="direction of writing"),
    pytest.param("a\ud83d", id="half a surrogate pair"),
]


def formatted(message: str, *arguments: object, exc: BaseException | None = None) -> str:
    exc_info = (type(exc), exc, exc.__traceback__) if exc is not None else None
    record = logging.LogRecord("headrace.x", logging.INFO, "", 0, message, arguments, exc_info)
    record.request_id = "-"
    return logs._Formatter(logs.FORMAT).format(record)


@pytest.mark.parametrize("text", NASTY)
def test_a_record_is_one_printable_line(text: str) -> None:
    line = formatted("%s failed", text)
    assert line.isprintable()
    assert line.endswith(" failed")
    assert len(BEGIN.findall(line.splitlines()[0])) >= 1
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize("text", NASTY)
def test_no_line_of_a_traceback_looks_like_a_record(text: str) -> None:
    try:
        raise ValueError(text)
    except ValueError as exc:
        first, *rest = formatted("it failed", exc=exc).split("\n")
    assert first.endswith("it failed")
    assert rest
    assert all(line.startswith("    ") and line.isprintable() for line in rest)


def test_text_as_people_write_it_stays_as_it_is() -> None:
    text = "Grüße, 你好, עברית, 🌊 C:\\new"
    assert logs.one_line(text) == text


def test_a_record_has_a_bound() -> None:
    line = formatted("%s", "x" * 10**6)
    assert len(line) < 5_000
    assert line.endswith("(1000000 characters)")


def records(log: Path) -> list[str]:
    """The lines of the log; each but those of a traceback has to be a record."""
    lines = log.read_text(encoding="utf-8", errors="surrogateescape").split("\n")[:-1]
    for line in lines:
        assert BEGIN.match(line) or line.startswith("    "), line
        assert line.isprintable(), line
    return lines


def raw(url: str, request: bytes) -> None:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(request)
        connection.recv(4096)


@pytest.fixture(scope="module")
def debugging(small_model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server that logs all that it can."""
    cwd = tmp_path_factory.mktemp("debugging")
    with serving(*of(small_model), "--log-level", "debug", cwd=cwd) as server:
        yield server


@pytest.mark.parametrize("text", NASTY)
def test_a_server_logs_no_forged_line(debugging: Serving, text: str) -> None:
    server, before = debugging, len(records(debugging.log))
    sent = text.encode("utf-8", "surrogatepass")
    raw(server.url, b"GET /" + quote(sent).encode() + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    shown = sent.replace(b"\r", b"\t").replace(b"\n", b"\t").replace(b"\0", b"")
    id = b"X-Request-ID: " + shown + b"\r\nX-Correlation-ID: " + shown
    raw(server.url, b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n" + id + b"\r\n\r\n")
    raw(server.url, b"GET /\x00\xff HTTP/1.1\r\n" + shown + b"\r\n\r\n")
    parameters = {"type": "object", "properties": {text: {"type": "string", "format": text, "not": {}}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    for model, tools in (("small", [tool]), (text, [])):
        content = json.dumps({**body, "model": model, "tools": tools})
        server.http.post(
            "/v1/chat/completions", content=content, headers={"Content-Type": "application/json"}
        )
    eventually(lambda: len(records(server.log)) >= before + 4)  # the last is written after its answer
    assert not any(line.startswith(FORGED[:19] + ",000 ERROR") for line in records(server.log))


@pytest.mark.parametrize("name", ["gone\n" + FORGED, "gone\x1b[2J", "gone\u202e"])
def test_an_error_on_the_terminal_is_one_line(name: str, tmp_path: Path) -> None:
    commands = (("rm", name), ("serve", f"./{name}.gguf"), ("serve", "--config", name))
    for arguments in commands if FORGED in name else commands[:1]:
        done = headrace(*arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.startswith("headrace: ")
        assert len(done.stderr.splitlines()) == 1
        assert done.stderr.rstrip("\n").isprintable()


def test_unknown_options_are_named_without_their_values(tmp_path: Path) -> None:
    done = headrace("serve", "--api-kye=sk-hush", "--api-keey", "sk-hush", cwd=tmp_path)
    assert done.returncode == 2
    assert "--api-kye, --api-keey" in done.stderr
    assert "hush" not in done.stderr


def test_json_records_are_one_object_a_line_with_facts_and_no_content(tmp_path: Path) -> None:
    (tmp_path / "headrace.toml").write_text('[providers.far]\nkind = "fake"\nprefix = false\n')
    with serving("--log-format", "json", cwd=tmp_path, HEADRACE_MODEL="") as server:
        secret = "a prompt that nobody must read\n{}"
        assert server.post({"model": "fake", "prompt": secret}).status_code == 200
        assert server.post({"model": "none", "prompt": secret}).status_code == 404
        log = server.log
        eventually(lambda: '"status": 404' in log.read_text())  # it is written after the answer's last byte
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    answered, refused = (line for line in lines if line.get("path") == "/v1/completions")
    assert answered["message"].startswith("POST /v1/completions 200")
    expected = {"level": "INFO", "logger": "headrace.access", "method": "POST", "status": 200,
                "key": "anonymous", "model": "fake", "backend": "far", "attempts": 1}  # fmt: skip
    assert expected.items() <= answered.items()
    assert re.fullmatch(r"req_[0-9a-f]{24}", answered["request_id"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", answered["time"])
    assert (refused["status"], refused["code"]) == (404, "model_not_found")
    assert "nobody must read" not in log.read_text()


def test_a_traceback_is_a_member_of_its_json_record() -> None:
    formatter = logs._JSONFormatter()
    try:
        raise ValueError(f"a\n{FORGED}")
    except ValueError as exc:
        record = logging.LogRecord("n", logging.ERROR, "f", 1, "%s", ("x\ny",), (ValueError, exc, None))
    (line,) = formatter.format(record).splitlines()
    assert json.loads(line)["message"] == "x\\ny"
    assert "ValueError" in json.loads(line)["exception"]
