"""`headrace chat` and `headrace run`: a conversation in the terminal, with a running server or with one that
they start. A question that comes through a pipe, or as an argument, is answered, and that is all.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.cli.connection import Connection, NoAnswer, connect, is_headrace
from headrace.cli.terminal import ProgressBar
from headrace.config import Config, Loaded, options

if TYPE_CHECKING:
    from headrace.cli.session import Session

WATCHED = ("downloading", "loading")
QUOTES = '"""'


class Reader:
    """Reads messages in the terminal: with line editing, a history that is kept, and messages of several
    lines by pasting them or between two lines of three quotation marks. `history`: the file that keeps what
    was typed; only this user may read it.
    """

    def __init__(self, history: Path) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.history import FileHistory, History, InMemoryHistory

        lines: History = InMemoryHistory()
        try:
            history.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(history, os.O_CREAT | os.O_APPEND, 0o600))
            lines = FileHistory(str(history))
        except OSError as exc:
            print(f"what is typed is not kept: {exc}", file=sys.stderr)
        self._session: PromptSession[str] = PromptSession(history=lines)

    def read(self) -> str | None:
        """The next message, or a command; None at the end of the input. Ctrl-C drops what is being typed."""
        while True:
            try:
                text = self._session.prompt("> ").strip()
                return self._quoted(text) if text.startswith(QUOTES) else text
            except KeyboardInterrupt:
                print("(Ctrl-D or /bye leaves)", file=sys.stderr)
            except EOFError:
                return None

    def _quoted(self, text: str) -> str:
        """A message that began with quotation marks, up to the marks that end it."""
        text = text.removeprefix(QUOTES)
        while not text.rstrip().endswith(QUOTES):
            text += "\n" + self._session.prompt("... ")
        return text.rstrip().removesuffix(QUOTES).strip("\n")


def chat(arguments: argparse.Namespace, loaded: Loaded) -> int:
    """Chat until the input ends. Raises NoAnswer."""
    model = arguments.model
    with _server(arguments, loaded.config) as (connection, is_own):
        served = connection.models()
        if not served:
            raise NoAnswer(f"the server at {connection.url} has no model that chats")
        if model is not None and model not in served and not is_own:
            has = ", ".join(served)
            raise NoAnswer(f"the server at {connection.url} has no model {model!r}; it has {has}")
        return _talk(connection, _chosen(model, served), arguments, loaded.config)


def run(arguments: argparse.Namespace, loaded: Loaded) -> int:
    """Chat with a model, which is fetched first if it is not here. Raises NoAnswer, ModelError."""
    with _server(arguments, loaded.config) as (connection, is_own):
        served = connection.models()
        name = _chosen(arguments.model, served)
        if arguments.model not in served and not is_own:
            name = _pulled(connection, arguments.model)
        return _talk(connection, name, arguments, loaded.config, question=" ".join(arguments.prompt))


def _chosen(model: str | None, served: list[str]) -> str:
    return model if model is not None and model in served else served[0]


def _pulled(connection: Connection, reference: str) -> str:
    """Let a running server fetch a model, with a progress bar. Returns its id. Raises NoAnswer."""
    from headrace.cli.session import chunks

    status = connection.post("/v1/models/pull", {"model": reference})
    bar = ProgressBar()
    try:
        with connection.open("GET", f"/v1/models/{status['id']}/events") as response:
            for status in chunks(response):
                if progress := status["progress"]:
                    bar(progress["label"], progress["done"], progress["total"])
                if status["state"] not in WATCHED:
                    break
    finally:
        bar.close()
    if status["state"] == "failed":
        raise NoAnswer(f"{status['id']} cannot be fetched: {status['error']}")
    return str(status["id"])


def _talk(
    connection: Connection, model: str, arguments: argparse.Namespace, config: Config, question: str = ""
) -> int:
    from headrace.cli.session import Session
    from headrace.cli.writer import writer

    session = Session(
        connection,
        model,
        writer(is_plain=arguments.plain),
        system=arguments.system,
        conversation=arguments.conversation,
        is_verbose=arguments.verbose,
        folder=config.paths.data,
    )
    is_typed = sys.stdin is None or sys.stdin.isatty()
    piped = "" if is_typed else sys.stdin.read().strip()
    question = "\n\n".join(part for part in (piped, question.strip()) if part)
    if question or not is_typed:
        return 0 if not question or session.ask(question) else 1
    return _converse(session, config)


def _converse(session: Session, config: Config) -> int:
    """Read messages and commands in the terminal until there are no more."""
    from headrace.cli.commands import run_command
    from headrace.cli.session import images_in

    print(f"{session.model} at {session.url}. /help lists the commands; Ctrl-D leaves.", file=sys.stderr)
    session.open_conversation()
    reader = Reader(config.paths.data / "chat_history")
    while (text := reader.read()) is not None:
        if text.startswith("/") and "\n" not in text and not images_in(text):
            if not run_command(session, text):
                break
        elif text:
            session.ask(text)
    return 0


@contextlib.contextmanager
def _server(arguments: argparse.Namespace, config: Config) -> Iterator[tuple[Connection, bool]]:
    """Find or start a server; one that was named is not started. Yields a connection, and whether the server
    was started here and ends with the chat.
    """
    connection = connect(arguments, config)
    if arguments.url is not None or is_headrace(connection.url):
        yield connection, False
        return
    print("no server answers; starting one", file=sys.stderr)
    command = [sys.executable, "-m", "headrace", "serve", "--host", "127.0.0.1", "--port", "0"]
    command += ["--log-level", "WARNING", *_engine_flags(config)]
    command += ["--config", str(arguments.config)] if arguments.config else []
    command += [arguments.model or config.models.default, *config.models.more]
    # in a session of its own: Ctrl-C ends an answer, and not the server
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            yield connect(arguments, config, _announced_url(process)), True
        finally:
            process.terminate()


def _engine_flags(config: Config) -> Iterator[str]:
    """The flags that pass this process's engine and path settings on to the server that it starts."""
    for option in options():
        if option.section in ("engine", "paths"):
            value = getattr(getattr(config, option.section), option.name)
            if not option.is_switch:
                yield from (option.flag, str(int(value) if isinstance(value, int) else value))
            elif value != option.info.default:
                yield option.flag if value else option.flag.replace("--", "--no-", 1)


def _announced_url(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip().startswith("url "):
            return line.split()[1].removesuffix("/v1")
    raise NoAnswer("the server did not start; its output is above")
