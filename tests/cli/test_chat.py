from __future__ import annotations

import socket
from pathlib import Path

from headrace.backends.fake import FakeBackend
from headrace.config import Config
from headrace.errors import EngineFailed
from headrace.models.catalog import DEFAULT_MODEL, Model
from headrace.types import Message
from tests.cli.process import headrace
from tests.conftest import FakeServer


def test_conversation_goes_on_until_the_input_ends(fake_server: FakeServer, tmp_path: Path) -> None:
    backend = FakeBackend(["Hello", " wörld"])
    port = str(fake_server(backend).port)
    text = "hi\n\nand?\n/clear\nafresh\n/exit\nnever\n"
    done = headrace("chat", "--port", port, "--system", "Be brief.", cwd=tmp_path, text=text)
    assert (done.returncode, done.stdout) == (0, "Hello wörld\n" * 3)
    assert f"fake at http://127.0.0.1:{port}" in done.stderr
    opening, hello = Message("system", "Be brief."), Message("assistant", "Hello wörld")
    assert [conversation.messages for conversation in backend.conversations] == [
        (opening, Message("user", "hi")),
        (opening, Message("user", "hi"), hello, Message("user", "and?")),
        (opening, Message("user", "afresh")),
    ]


def test_error_is_shown_and_the_conversation_goes_on(fake_server: FakeServer, tmp_path: Path) -> None:
    backend = FakeBackend(["Hel"], error=EngineFailed("out of memory"))
    port = str(fake_server(backend).port)
    done = headrace("chat", "--port", port, cwd=tmp_path, text="one\ntwo\n")
    assert done.returncode == 0
    assert done.stderr.count("error: out of memory") == 2
    assert [len(conversation.messages) for conversation in backend.conversations] == [1, 1]


def test_key_is_sent_and_a_wrong_one_is_an_error(fake_server: FakeServer, tmp_path: Path) -> None:
    port = str(fake_server(config=Config.model_validate({"server": {"api_keys": ["k"]}})).port)
    right = headrace("chat", "--port", port, "--api-key", "k", cwd=tmp_path, text="hi\n")
    assert (right.returncode, right.stdout) == (0, "Hello world\n")
    wrong = headrace("chat", "--port", port, cwd=tmp_path, text="hi\n")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "API key" in wrong.stderr


def test_model_that_the_server_lacks_is_an_error(fake_server: FakeServer, tmp_path: Path) -> None:
    port = str(fake_server().port)
    done = headrace("chat", "--port", port, "--model", "gpt-9", cwd=tmp_path, text="hi\n")
    assert done.returncode == 2
    assert "has no model 'gpt-9'; it has fake" in done.stderr


def test_without_a_server_it_starts_one_and_ends_it(default_model: Model, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    arguments = ("--port", port, "--max-model-len", "128", "--model", DEFAULT_MODEL)
    done = headrace("chat", *arguments, cwd=tmp_path, text="What color is the sky?\n" + "word " * 200 + "\n")
    assert done.returncode == 0
    assert "The" in done.stdout
    assert DEFAULT_MODEL in done.stderr
    assert "maximum context length is 128 tokens" in done.stderr, "the flag has reached the server"


def test_server_that_does_not_start_is_an_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    done = headrace("chat", "--port", port, "--model", "/no/such.gguf", cwd=tmp_path, text="hi\n")
    assert done.returncode == 2
    assert "/no/such.gguf" in done.stderr
    assert "the server did not start" in done.stderr
