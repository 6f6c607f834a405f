"""Reads the body of a provider's error, in any dialect: its message, code, type and parameter."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from headrace.backends.sse import events_in
from headrace.dialects.values import Object, an_object, count, objects, parsed, valid

MESSAGES = (  # in order of rank
    "error", "errors", "message", "faultstring", "detail", "msg", "error_msg", "error_message",
    "error_description", "base_resp", "status_msg", "description", "err", "exception", "fault", "reason",
    "text", "title",
)  # fmt: skip
# what else an error says whose `error` may be no more than the name of its status, "Bad Request"
WORDS = ("message", "detail", "msg", "error_message", "error_description", "description")
INNER = ("error", "errors", "detail", "message", "err", "fault")  # members with the object that says more
CODES = ("code", "status", "error_code", "errorcode", "__type")
NAMES = frozenset((*MESSAGES, *CODES, "type", "param"))  # some providers begin them with a capital
NO_CODES = ("error", "fail", "failed", "failure")
BY_PARAMETER = ("errors", "detail")  # members that may contain messages by the names of parameters
MAX_DEPTH = 8
MAX_MESSAGE = 4000  # characters
MAX_SEVERAL = 3  # messages that are quoted of a list of errors
SUCCESSES = ("200", "ok", "success")  # codes
PAGE = re.compile(r"\s*\ufeff?\s*<(!doctype|html|head|body)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """`message`: "" if the body has none. None stands for absent names."""

    message: str = ""
    code: str | None = None
    type: str | None = None
    param: str | None = None
    pause: str | None = None  # after which a retry may succeed, such as "34s"


def error_body(raw: str) -> ErrorBody:
    """Read {"error": {"message", "code", "type", "param"}}, {"error": text}, {"message"}, {"detail"}, lists
    of such errors (FastAPI's have a location), and `metadata.raw`, where a router quotes the provider
    behind it.
    """
    try:
        body = _unpacked(parsed(_data_in(raw)), MAX_DEPTH)
    except (ValueError, RecursionError):
        return ErrorBody(_plain(raw))
    levels = list(_levels(body))[::-1]

    def innermost(name_in: Callable[[Object], str | None]) -> str | None:
        return next(filter(None, map(name_in, levels)), None)

    message, type = _message(body, MAX_DEPTH), innermost(lambda level: _name(level.get("type")))
    return ErrorBody(message[:MAX_MESSAGE], innermost(_code), type, innermost(_param), innermost(_pause))


def _data_in(raw: str) -> str:
    """The JSON of an error that came as an event of a stream."""
    if not raw.lstrip().startswith(("data:", "event:")):
        return raw
    return next((sent.data for sent in events_in(raw.encode(errors="replace"))), raw)


def _unpacked(value: Any, depth: int) -> Any:
    """The same value with NAMES in lower case, and with what texts contain that are errors in JSON."""
    if not depth:
        return value
    if isinstance(value, dict):
        known = {name: name.lower() if name.lower() in NAMES else name for name in value}
        return {known[name]: _unpacked(member, depth - 1) for name, member in value.items()}
    if isinstance(value, list):
        return [_unpacked(entry, depth - 1) for entry in value]
    if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        with suppress(ValueError, RecursionError):
            inner = _unpacked(parsed(value), depth - 1)
            return inner if _message(inner, MAX_DEPTH) else value
    return value


def _plain(raw: str) -> str:
    """The message of a body that is plain text; "" for markup, broken JSON and bytes that are no text."""
    text = " ".join(raw[:MAX_MESSAGE].split())
    return "" if text.startswith(("<", "{", "[")) or not text.isprintable() else valid(text)


def is_error(chunk: Object) -> bool:
    """Whether a piece of a stream without an answer in it is an error in a shape that others use: vLLM's
    older one (`object` is "error"), FastAPI's (`detail`), a `code`, or a `success` that is false, beside a
    `message`, and those of some providers in China. A text alone may be a heartbeat.
    """
    if chunk.get("choices"):
        return False
    if any(chunk.get(name) for name in ("errors", "detail", "error_msg", "error_message", "error_code")):
        return True
    if any(chunk.get(name) == "error" for name in ("object", "type", "status")):
        return True
    if count(an_object(chunk.get("base_resp")).get("status_code")):
        return True
    is_text = any(isinstance(chunk.get(name), str) and chunk[name] for name in ("message", "msg"))
    code = chunk.get("code") or chunk.get("status_code")
    is_failure = bool(code) and str(code).lower() not in SUCCESSES
    return is_text and (is_failure or chunk.get("success") is False)


def is_page(raw: str) -> bool:
    """Whether a body is an HTML page, for example of a proxy or a login."""
    return PAGE.match(raw) is not None


def _message(value: object, depth: int) -> str:
    if isinstance(value, str):
        return valid(value)
    if not depth:
        return ""
    if isinstance(value, list):
        return "; ".join(filter(None, (_message(entry, depth - 1) for entry in value[:MAX_SEVERAL])))
    if not isinstance(value, dict):
        return ""
    texts = {name: _member(name, value.get(name), depth - 1) for name in MESSAGES}
    text = next(filter(None, texts.values()), "")
    more = [_message(an_object(value.get("metadata")).get("raw"), depth - 1)]  # a router's
    if isinstance(value.get("error"), str):
        more[:0] = filter(None, (texts[name] for name in WORDS))
    quoted = next(filter(None, more), "")
    if quoted not in text:
        text = f"{text}: {quoted}" if text else quoted
    location = ".".join(_steps(value)[:MAX_DEPTH])[:200]
    return f"{location}: {text}" if location and text else text


def _member(name: str, value: object, depth: int) -> str:
    text = _message(value, depth)
    if text or name not in BY_PARAMETER or not isinstance(value, dict):
        return text
    pairs = ((param, _message(inner, depth - 1)) for param, inner in list(value.items())[:MAX_SEVERAL])
    return "; ".join(f"{valid(param)[:100]}: {inner}" for param, inner in pairs if inner)


def _levels(level: Any) -> Iterator[Object]:
    """The nested objects of an error, outermost first: one may be inside INNER, or a list, or be the error
    of the provider behind a router.
    """
    for _ in range(MAX_DEPTH):
        if isinstance(level, list):
            level = level[0] if level else None
        if not isinstance(level, dict):
            return
        yield level
        inner = [*(level.get(name) for name in INNER), an_object(level.get("metadata")).get("raw")]
        level = next((value for value in inner if value and isinstance(value, dict | list)), None)


def _code(level: Object) -> str | None:
    """A code that is a name and not the number of a status. Amazon's may have a namespace before it."""
    names = (_name(level.get(name)) for name in CODES)
    known = (name for name in names if name and not name.isdecimal() and name.lower() not in NO_CODES)
    return next((name.rpartition("#")[2] or name for name in known), None)


def _pause(level: Object) -> str | None:
    """Google's RetryInfo, or the `retry_after` of others, in seconds."""
    details = [entry.get("retryDelay") for entry in objects(level.get("details"))]
    pause = next(filter(None, [*details, level.get("retry_after")]), None)
    return str(pause)[:20] if isinstance(pause, str | int | float) else None


def _param(level: Object) -> str | None:
    """The parameter's name, or FastAPI's location of it without its first step ("body" or "query")."""
    steps = _steps(level)
    if steps:
        return _name(".".join(steps[1:] if steps[0] in ("body", "query") else steps))
    return _name(level.get("param"))


def _steps(level: Object) -> list[str]:
    """FastAPI's location of an error, such as ["body", "messages", "0"]."""
    location = level.get("loc")
    steps = location[:20] if isinstance(location, list) else []
    return [str(step) for step in steps if isinstance(step, str | int)]


def _name(value: object) -> str | None:
    """A printable name; secrets in it are masked, and it is cut to a maximal length, elsewhere."""
    return value if isinstance(value, str) and value and value.isprintable() else None
