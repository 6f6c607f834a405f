"""Logging: one line per event on standard error, with the id of its request, as text or as JSON. Prompts and
answers are never logged. No record can imitate another: control characters are escaped, and tracebacks are
indented, or part of the JSON.
"""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from contextvars import ContextVar
from functools import lru_cache
from typing import Literal, NamedTuple

LONGEST = 4_000  # characters of one message: longer ones could fill the disk
FORMAT = "%(asctime)s %(levelname)-7s [%(request_id)s] %(name)s: %(message)s"

# The id of the current request, in every line that its task logs; "-" outside of requests.
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="-")

# What is known of the current request, for the line that ends it in a JSON log; None: the log is text.
FACTS: ContextVar[dict[str, object] | None] = ContextVar("facts", default=None)
# The W3C trace context that the caller of the current request has sent, where traces are kept.
TRACEPARENT: ContextVar[str | None] = ContextVar("traceparent", default=None)
Format = Literal["text", "json"]


def one_line(text: str, longest: int = LONGEST) -> str:
    """The text as one line for a terminal or a log. Unprintable characters (line ends, escape sequences,
    marks of writing direction, lone surrogates) become Python escapes; a text is cut after `longest`
    characters.
    """
    if len(text) > longest:
        text = f"{text[:longest]}… ({len(text)} characters)"
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


def _indented(text: str) -> str:
    return "\n".join("    " + one_line(line) for line in text.split("\n"))


class Line(NamedTuple):
    """A line of the log. `id` grows with each; `time`: seconds since 1970."""

    id: int
    time: float
    level: str
    logger: str
    request_id: str
    message: str


class Recent(logging.Handler):
    """Keeps the last lines in memory, without tracebacks."""

    def __init__(self, most: int = 500) -> None:
        super().__init__()
        self._lines: deque[Line] = deque(maxlen=most)
        self._count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self._count += 1
        request_id = getattr(record, "request_id", "-")
        message = one_line(record.getMessage())
        self._lines.append(
            Line(self._count, record.created, record.levelname, record.name, request_id, message)
        )

    def after(self, id: int) -> list[Line]:
        """The lines after the one of this id, oldest first."""
        return [line for line in tuple(self._lines) if line.id > id]


RECENT = Recent()


@lru_cache(maxsize=4)
def _written(second: int, form: str, *, is_utc: bool) -> str:
    """A time, formatted once per second."""
    return time.strftime(form, time.gmtime(second) if is_utc else time.localtime(second))


class _Formatter(logging.Formatter):
    """Formats each record as one line."""

    def format(self, record: logging.LogRecord) -> str:
        record.message = one_line(record.getMessage())
        record.asctime = self.formatTime(record)
        line = self.formatMessage(record)
        if record.exc_info:
            line += "\n" + _indented(self.formatException(record.exc_info))
        if record.stack_info:
            line += "\n" + _indented(self.formatStack(record.stack_info))
        return line

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        second = _written(int(record.created), "%Y-%m-%d %H:%M:%S", is_utc=False)
        return f"{second},{record.msecs:03.0f}"


class _JSONFormatter(logging.Formatter):
    """Formats each record as one JSON object. `record.facts`, if there is one, adds its members."""

    def __init__(self, process: str = "") -> None:
        super().__init__()
        self._process = {"process": process} if process else {}

    def format(self, record: logging.LogRecord) -> str:
        second = _written(int(record.created), "%Y-%m-%dT%H:%M:%S", is_utc=True)
        entry: dict[str, object] = {
            "time": f"{second}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "request_id": getattr(record, "request_id", "-"),
            "message": one_line(record.getMessage()),
            **self._process,
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            entry["stack"] = self.formatStack(record.stack_info)
        return json.dumps(entry, ensure_ascii=True)


def configure(level: str, format: Format = "text", process: str = "") -> None:
    """`process`: the name of this process in every record, where there are several."""
    handler = logging.StreamHandler()
    text = FORMAT.replace("%(name)s", f"{process} %(name)s") if process else FORMAT
    handler.setFormatter(_JSONFormatter(process) if format == "json" else _Formatter(text))
    handler.addFilter(_add_request_id)
    RECENT.addFilter(_add_request_id)
    logging.basicConfig(level=level, handlers=[handler, RECENT], force=True)
    # Not in FORMAT, and a third of the cost of a line.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # documented: skips the search for the caller
    for noisy in ("uvicorn.access", "httpx", "filelock"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _add_request_id(record: logging.LogRecord) -> bool:
    # A filter and not `extra`, because lines of uvicorn and other libraries need the field too.
    record.request_id = REQUEST_ID.get()
    return True
