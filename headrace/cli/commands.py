"""The commands of a chat, which begin with a slash."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from textwrap import fill

from headrace.cli.connection import NoAnswer
from headrace.cli.session import Session

LEAVING = ("/bye", "/exit", "/quit")
NAME = re.compile(r"[\w.-]{1,100}")
INTEGERS = ("max_tokens", "seed", "top_k")
NUMBERS = ("temperature", "top_p", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty")
HELP = {
    "/help": "this list",
    "/model [NAME]": "use another model; without a name: list them",
    "/system [TEXT]": "set the system message; without a text: show it",
    "/set [NAME VALUE]": "set a parameter (temperature, max_tokens, …) or `verbose on`; `off` unsets it",
    "/save NAME": "save the conversation on this machine",
    "/load [NAME]": "go on with a saved one; without a name: list them",
    "/clear": "forget the conversation",
    "/bye": "leave (so does Ctrl-D)",
    '"""': "begins and ends a message of several lines; pasted lines are one message",
    "./PATH.png": "in a message: the image goes with it, where the model sees",
    "Ctrl-C": "ends an answer",
}


def run_command(session: Session, text: str) -> bool:
    """Run one command. Returns whether the chat goes on."""
    name, _, rest = text.partition(" ")
    if name in LEAVING:
        return False
    command = COMMANDS.get(name)
    try:
        if command is None:
            _tell(f"there is no command {name}; /help lists them")
        else:
            command(session, rest.strip())
    except (NoAnswer, OSError, ValueError) as exc:
        _tell(f"error: {getattr(exc, 'message', exc)}")
    return True


def _help(_: Session, __: str) -> None:
    width, columns = max(map(len, HELP)) + 2, shutil.get_terminal_size().columns
    for name, text in HELP.items():
        _tell(fill(text, columns, initial_indent=name.ljust(width), subsequent_indent=" " * width))


def _model(session: Session, name: str) -> None:
    served = session.models()
    if name and name in served:
        session.model = name
        _tell(f"{name} answers from now on")
        return
    if name:
        _tell(f"the server has no model {name!r}")
    for one in served:
        _tell(f"{'*' if one == session.model else ' '} {one}")


def _system(session: Session, text: str) -> None:
    if text:
        session.system = text
    _tell(f"system: {session.system or '(none)'}")


def _set(session: Session, text: str) -> None:
    name, _, value = text.removeprefix("parameter ").strip().partition(" ")  # Ollama's word is taken, too
    value = value.strip()
    if name == "system":
        _system(session, value)
        return
    if name == "verbose":
        session.is_verbose = value != "off"
    elif name and (name not in (*INTEGERS, *NUMBERS) or not value):
        raise ValueError(f"/set takes verbose, {', '.join((*INTEGERS, *NUMBERS))}, and a value")
    elif value == "off":
        session.parameters.pop(name, None)
    elif name:
        session.parameters[name] = int(value) if name in INTEGERS else float(value)
    shown = {"verbose": "on" if session.is_verbose else "off", **session.parameters}
    _tell(", ".join(f"{key} {one}" for key, one in shown.items()))


def _save(session: Session, name: str) -> None:
    file = session.saved / f"{_checked(name)}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    saved = {"model": session.model, "system": session.system, "messages": session.messages}
    file.write_text(json.dumps(saved, ensure_ascii=False, indent=1), encoding="utf-8")
    file.chmod(0o600)
    _tell(f"{len(session.messages)} messages are in {file}")


def _load(session: Session, name: str) -> None:
    if not name:
        names = sorted(file.stem for file in session.saved.glob("*.json"))
        _tell("\n".join(names) or "nothing is saved")
        return
    if session.is_kept:
        raise ValueError("the server keeps this conversation: load another one without --conversation")
    saved = json.loads((session.saved / f"{_checked(name)}.json").read_text(encoding="utf-8"))
    session.messages[:] = [{"role": one["role"], "content": one["content"]} for one in saved["messages"]]
    session.system = saved["system"]
    _tell(f"{name} goes on after {len(session.messages)} messages")


def _clear(session: Session, _: str) -> None:
    session.clear()
    _tell("the conversation is forgotten")


def _checked(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError("give a name of letters, digits, dots and dashes")
    return name


def _tell(text: str) -> None:
    print(text, file=sys.stderr)


COMMANDS: dict[str, Callable[[Session, str], None]] = {
    "/help": _help, "/?": _help, "/model": _model, "/system": _system, "/set": _set, "/save": _save,
    "/load": _load, "/clear": _clear,
}  # fmt: skip
