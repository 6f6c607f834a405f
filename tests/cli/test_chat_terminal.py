"""`headrace chat` in a terminal: what is typed, what is shown, and what is kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from headrace.backends.fake import FakeBackend
from headrace.errors import BadRequest
from headrace.types import Finished, Media, TextDelta, Usage
from tests.cli.process import headrace
from tests.cli.terminal import CTRL_C, CTRL_D, ENTER, UP, Terminal, terminal
from tests.conftest import FakeServer
from tests.serving import eventually

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend(["Hello", " world"])


@contextmanager
def chatting(server: Any, folder: Path, *arguments: str) -> Iterator[Terminal]:
    with terminal("chat", "--port", str(server.port), *arguments, cwd=folder) as found:
        found.until(">")
        yield found


def questions(backend: FakeBackend) -> list[str]:
    """The last message of each request."""
    return [conversation.messages[-1].text for conversation in backend.conversations]


def test_a_chat_from_greeting_to_bye(fake_server: FakeServer, backend: FakeBackend, tmp_path: Path) -> None:
    with chatting(fake_server(backend), tmp_path) as chat:
        assert "/help lists the commands" in chat.text
        chat.enter("hi")
        chat.until("Hello world")
        chat.until(">", 2)
        chat.enter("/bye")
        assert chat.end() == 0
    assert questions(backend) == ["hi"]


def test_history_is_kept_for_the_next_time(
    fake_server: FakeServer, backend: FakeBackend, tmp_path: Path
) -> None:
    server = fake_server(backend)
    with chatting(server, tmp_path) as chat:
        chat.enter("the first question")
        chat.until("Hello world")
        chat.until(">", 2)
        chat.type(CTRL_D)
        assert chat.end() == 0
    (history,) = (tmp_path / "data").rglob("chat_history")
    assert history.stat().st_mode & 0o077 == 0, "only its user may read it"
    with chatting(server, tmp_path) as chat:
        chat.type(UP)
        chat.until("the first question")
        chat.type(", again" + ENTER)
        chat.until("Hello world")
    assert questions(backend) == ["the first question", "the first question, again"]


def test_a_line_can_be_edited(fake_server: FakeServer, backend: FakeBackend, tmp_path: Path) -> None:
    with chatting(fake_server(backend), tmp_path) as chat:
        chat.type("helo\x1b[Dl" + ENTER)
        chat.until("Hello world")
    assert questions(backend) == ["hello"]


def test_a_paste_of_several_lines_is_one_message(
    fake_server: FakeServer, backend: FakeBackend, tmp_path: Path
) -> None:
    with chatting(fake_server(backend), tmp_path) as chat:
        chat.paste("def f():\n    return 1\n\nWhat is this?")
        chat.enter("")
        chat.until("Hello world")
    assert questions(backend) == ["def f():\n    return 1\n\nWhat is this?"]


def test_a_paste_while_an_answer_comes_is_the_next_message(fake_server: FakeServer, tmp_path: Path) -> None:
    slow = FakeBackend(["word "] * 20, delay_s=0.05)
    with chatting(fake_server(slow), tmp_path) as chat:
        chat.enter("count")
        chat.until("word word")
        assert chat.marks_pastes
        chat.paste("one\ntwo")
        chat.until("two")
        chat.enter("")
        eventually(lambda: questions(slow) == ["count", "one\ntwo"])


def test_quotation_marks_hold_several_lines(
    fake_server: FakeServer, backend: FakeBackend, tmp_path: Path
) -> None:
    with chatting(fake_server(backend), tmp_path) as chat:
        chat.enter('"""one')
        chat.until("...")
        chat.enter("two")
        chat.until("...", 2)
        chat.enter('three"""')
        chat.until("Hello world")
    assert questions(backend) == ["one\ntwo\nthree"]


def test_ctrl_c_stops_the_answer_and_not_the_program(fake_server: FakeServer, tmp_path: Path) -> None:
    slow = FakeBackend(["word "] * 1000, delay_s=0.05)
    with chatting(fake_server(slow), tmp_path) as chat:
        chat.enter("count")
        chat.until("word word")
        chat.type(CTRL_C)
        chat.until("(interrupted)")
        assert chat.text.count("\nword word") == 1, "the answer is drawn once"
        eventually(lambda: not slow.num_active)
        slow.script = ["Still here"]
        chat.enter("and now?")
        chat.until("Still here")
        chat.until("\n>", 3)  # Ctrl-C before the prompt would be about the answer
        chat.type(CTRL_C)
        chat.until("(Ctrl-D or /bye leaves)")
        chat.until("\n>", 4)  # between two prompts the terminal takes Ctrl-D for itself
        chat.type(CTRL_D)
        assert chat.end() == 0
    assert [len(conversation.messages) for conversation in slow.conversations] == [1, 3]


def test_the_commands(fake_server: FakeServer, backend: FakeBackend, tmp_path: Path) -> None:
    with chatting(fake_server(backend), tmp_path) as chat:
        chat.enter("/help")
        for name in ("/model", "/system", "/set", "/save", "/load", "/clear", "/bye"):
            chat.until(name)
        chat.until("use another model; without a name: list them")
        chat.enter("/system Be brief.")
        chat.until("system: Be brief.")
        chat.enter("/set parameter temperature 0.5")  # as Ollama has it
        chat.until("verbose off, temperature 0.5")
        chat.enter("/set warmth 3")
        chat.until("error: /set takes")
        chat.enter("hi")
        chat.until("Hello world")
        chat.enter("/save mine")
        chat.until("2 messages are in")
        chat.enter("/clear")
        chat.until("is forgotten")
        chat.enter("/load")
        chat.until("mine")
        chat.enter("/load mine")
        chat.until("goes on after 2 messages")
        chat.enter("/model")
        chat.until("* fake")
        chat.enter("/nonsense")
        chat.until("there is no command /nonsense")
        chat.enter("again")
        chat.until("Hello world", 2)
    first, second = backend.requests
    assert (first.sampling.temperature, len(backend.conversations[0].messages)) == (0.5, 2)
    assert [message.text for message in backend.conversations[1].messages] == [
        "Be brief.", "hi", "Hello world", "again",
    ]  # fmt: skip
    assert second.sampling.temperature == 0.5


def test_markdown_is_formatted_as_it_comes(fake_server: FakeServer, tmp_path: Path) -> None:
    pieces = ["# Tit", "le\n\nSome **bo", "ld** text.\n\n```python\nx = 1\n\ny", " = 2\n```\n\n- one\n- two"]
    backend = FakeBackend([TextDelta(0, piece) for piece in pieces])
    server = fake_server(backend)
    with chatting(server, tmp_path) as chat:
        chat.enter("hi")
        chat.until("two")
        chat.until(">", 2)
        shown = chat.text
        assert "Some bold text." in shown
        assert " • one" in shown
        assert "y = 2" in shown
        assert "**" not in shown
        assert "```" not in shown
        assert shown.count("Title") == 1, "each block is printed once"
    with chatting(server, tmp_path, "--plain") as chat:
        chat.enter("hi")
        chat.until("Some **bold** text.")


def test_no_signs_of_the_terminals_own_are_shown(fake_server: FakeServer, tmp_path: Path) -> None:
    with chatting(fake_server(FakeBackend(["one\n\n", "two"])), tmp_path) as chat:
        chat.enter("count")
        chat.until(">", 2)
        assert [line for line in chat.lines if "2004" in line] == []


def test_figures_are_shown_where_they_are_wanted(fake_server: FakeServer, tmp_path: Path) -> None:
    backend = FakeBackend(["a", "b", Finished(0, "stop", Usage(3, 42))], delay_s=0.02)
    with chatting(fake_server(backend), tmp_path, "--verbose") as chat:
        chat.enter("hi")
        chat.until("(42 tokens, ")
        chat.until(" tokens/s, first after ")


def test_a_conversation_that_the_server_keeps(
    fake_server: FakeServer, backend: FakeBackend, tmp_path: Path
) -> None:
    server = fake_server(backend)
    for question in ("one", "two"):
        with chatting(server, tmp_path, "--conversation", "trip") as chat:
            chat.enter(question)
            chat.until("Hello world")
            if question == "two":
                assert "trip goes on." in chat.text
    assert [message.text for message in backend.conversations[1].messages] == ["one", "Hello world", "two"]
    (kept,) = server.get("/v1/conversations").json()["data"]
    assert kept["metadata"] == {"name": "trip"}


def test_a_conversation_that_the_server_keeps_is_saved_whole(
    fake_server: FakeServer, backend: FakeBackend, tmp_path: Path
) -> None:
    server = fake_server(backend)
    headrace("chat", "--port", str(server.port), "--conversation", "trip", cwd=tmp_path, text="one")
    (kept,) = server.get("/v1/conversations").json()["data"]
    with chatting(server, tmp_path, "--conversation", "trip") as chat:
        chat.enter("two")
        chat.until("Hello world")
        chat.enter("/save mine")
        chat.until("4 messages are in")
        chat.enter("/load mine")
        chat.until("error: the server keeps this conversation")
        server.http.delete(f"/v1/conversations/{kept['id']}")
        chat.enter("three")
        chat.until("not found")
        chat.enter("/clear")
        chat.until("is forgotten")
        chat.enter("four")
        chat.until("Hello world", 2)
    (saved,) = (tmp_path / "data").rglob("mine.json")
    texts = [message["content"] for message in json.loads(saved.read_text())["messages"]]
    assert texts == ["one", "Hello world", "two", "Hello world"]
    assert questions(backend) == ["one", "two", "four"]


def test_an_image_is_sent_by_its_path_where_the_model_sees(fake_server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "a cat.png").write_bytes(PNG)
    (tmp_path / "no.png").write_text("text")
    backend = FakeBackend(["A cat"])
    with chatting(fake_server(backend), tmp_path) as chat:
        chat.enter("What is in './a cat.png'?")
        chat.until("A cat")
        chat.enter("And in ./no.png, or ./absent.png?")
        chat.until("is no image")
        chat.enter("And ./absent.png?")
        chat.until("A cat", 2)
        (tmp_path / "cat.png").write_bytes(PNG)
        chat.enter(f"{tmp_path / 'cat.png'} is what?")  # it begins like a command
        eventually(lambda: len(backend.conversations) == 3)
    first, second, third = (conversation.messages for conversation in backend.conversations)
    (text, image) = first[0].parts
    assert (text, isinstance(image, Media) and image.kind) == ("What is in './a cat.png'?", "image")
    assert (len(second), second[-1].parts) == (3, ())
    assert isinstance(third[-1].parts[1], Media)


def test_an_image_is_refused_with_a_word_where_the_model_does_not_see(
    fake_server: FakeServer, backend: FakeBackend, tmp_path: Path
) -> None:
    backend.refusal = BadRequest("this model reads text only")
    (tmp_path / "cat.png").write_bytes(PNG)
    with chatting(fake_server(backend), tmp_path) as chat:
        chat.enter("What is in ./cat.png?")
        chat.until("error: this model reads text only")
        backend.refusal = None
        chat.enter("hi")
        chat.until("Hello world")
    assert questions(backend) == ["What is in ./cat.png?", "hi"]
    assert len(backend.conversations[-1].messages) == 1, "the refused message is forgotten"


def test_an_error_does_not_end_the_chat(fake_server: FakeServer, tmp_path: Path) -> None:
    from headrace.errors import Overloaded

    backend = FakeBackend(["Hello"], refusal=Overloaded("no place"))
    with chatting(fake_server(backend), tmp_path) as chat:
        chat.enter("hi")
        chat.until("error: no place")
        backend.refusal = None
        chat.enter("hi again")
        chat.until("Hello")
    assert [len(conversation.messages) for conversation in backend.conversations] == [1, 1]
