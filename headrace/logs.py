"""Logging: one line an event on standard error, with the id of the request it belongs to. Content is never
logged. Nothing that a record says can look like another record: control characters are written as escapes,
and the lines of a traceback are indented.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

LONGEST = 4_000  # characters of one message: whoever can make it longer could fill the disk
FORMAT = "%(asctime)s %(levelname)-7s [%(request_id)s] %(name)s: %(message)s"

_request_id: ContextVar[str] = ContextVar("request_id", default="-")


@contextmanager
def request(id: str) -> Iterator[None]:
    """Every line logged inside belongs to this request."""
    token = _request_id.set(id)
    try:
        yield
    finally:
        _request_id.reset(token)


def request_id() -> str:
    """Of the request that this belongs to; "-": of none."""
    return _request_id.get()


def one_line(text: str, longest: int = LONGEST) -> str:
    """`text` as a terminal and a log can show it: what is not printable (line ends, escape sequences, marks
    that change the direction of writing, half surrogate pairs) becomes a Python escape, and the rest of a
    text that is longer than `longest` characters is left out.
    """
    if len(text) > longest:
        text = f"{text[:longest]}… ({len(text)} characters)"
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


def _indented(text: str) -> str:
    return "\n".join("    " + one_line(line) for line in text.split("\n"))


class _Formatter(logging.Formatter):
    """Writes a second's time once, and each record so that it cannot forge another."""

    _second, _written = 0, ""

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
        second = int(record.created)
        if second != self._second:
            self._second = second
            self._written = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
        return f"{self._written},{record.msecs:03.0f}"


def configure(level: str) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter(FORMAT))
    handler.addFilter(_add_request_id)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # what FORMAT does not show need not be found out: a third of what a line costs
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # the documentation's own way not to look for the caller
    for noisy in ("uvicorn.access", "httpx", "filelock"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _add_request_id(record: logging.LogRecord) -> bool:
    # uvicorn's own lines and the engine thread's carry none
    record.request_id = request_id()
    return True
