"""Logging: one line an event on standard error, with the id of the request it belongs to. Content is never
logged.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

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


def configure(level: str) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(FORMAT))
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
