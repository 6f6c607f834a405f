from __future__ import annotations

import socket
from pathlib import Path

from headrace.backends.fake import FakeBackend
from headrace.config import Config
from headrace.errors import EngineFailed
from headrace.models.catalog import Model
from headrace.types import Message
from tests.cli.process import headrace
from tests.conftest import FakeServer


def test_a_piped_question_is_answered_and_that_is_all(fake_server: FakeServer, tmp_path: Path) -> None:
    backend = FakeBackend(["Hello", " wörld"])
    port = str(fake_server(backend).port)
    done = headrace("chat", "--port", port, "--system", "Be brief.", cwd=tmp_path, text="hi\n\n/and?\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "Hello wörld\n", "")
    opening = Message("system", "Be brief.")
    assert [conversation.messages for conversation in backend.conversations] == [
        (opening, Message("user", "hi\n\n/and?"))
    ]
    nothing = headrace("chat", "--port", port, cwd=tmp_path, text=" \n")
    assert (nothing.returncode, nothing.stdout) == (0, "")


def test_a_conversation_by_name_goes_on(fake_server: FakeServer, tmp_path: Path) -> None:
    backend = FakeBackend(["Hello"])
    port = str(fake_server(backend).port)
    for question in ("one", "two"):
        done = headrace("chat", "--port", port, "--conversation", "trip", cwd=tmp_path, text=question)
        assert done.returncode == 0
    assert [message.text for message in backend.conversations[1].messages] == ["one", "Hello", "two"]


def test_a_conversation_by_name_is_found_among_many(fake_server: FakeServer, tmp_path: Path) -> None:
    backend = FakeBackend(["Hello"])
    server = fake_server(backend)
    headrace("chat", "--port", str(server.port), "--conversation", "trip", cwd=tmp_path, text="one")
    for number in range(101):
        server.post("/v1/conversations", {"metadata": {"name": f"other {number}"}})
    headrace("chat", "--port", str(server.port), "--conversation", "trip", cwd=tmp_path, text="two")
    assert [message.text for message in backend.conversations[-1].messages] == ["one", "Hello", "two"]


def test_an_error_is_shown_and_is_the_exit_code(fake_server: FakeServer, tmp_path: Path) -> None:
    backend = FakeBackend(["Hel"], error=EngineFailed("out of memory"))
    port = str(fake_server(backend).port)
    done = headrace("chat", "--port", port, cwd=tmp_path, text="one\n")
    assert (done.returncode, done.stdout) == (1, "Hel\n")
    assert done.stderr.count("error: out of memory") == 1


def test_run_answers_a_prompt_with_the_model_of_a_running_server(
    fake_server: FakeServer, tmp_path: Path
) -> None:
    backend = FakeBackend(["Hello"])
    port = str(fake_server(backend).port)
    done = headrace("run", "--port", port, "fake", "What", "is this?", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "Hello\n")
    assert backend.conversations[0].messages == (Message("user", "What is this?"),)
    done = headrace("run", "fake", "--port", port, "What", "is this?", cwd=tmp_path, text="print(1)\n")
    assert (done.returncode, done.stdout) == (0, "Hello\n")
    assert backend.conversations[1].messages == (Message("user", "print(1)\n\nWhat is this?"),)


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


def test_without_a_server_it_starts_one_and_ends_it(small_model: Model, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    model = str(small_model.gguf)
    members = {"HEADRACE_CACHE": str(small_model.folder.parents[1]), "HEADRACE_EMBEDDING_MODEL": "none"}
    arguments = ("--port", port, "--max-model-len", "128", "--model", model)
    done = headrace("chat", *arguments, cwd=tmp_path, text="What color is the sky?\n", **members)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    done = headrace("run", *arguments[:4], model, cwd=tmp_path, text="word " * 200, **members)
    assert done.returncode == 1
    assert "maximum context length is 128 tokens" in done.stderr, "the flag has reached the server"


def test_server_that_does_not_start_is_an_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    done = headrace("chat", "--port", port, "--model", "/no/such.gguf", cwd=tmp_path, text="hi\n")
    assert done.returncode == 2
    assert "/no/such.gguf" in done.stderr
    assert "the server did not start" in done.stderr
