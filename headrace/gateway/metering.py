"""What an answer that is passed on has cost: read off the passing bytes, told in one place at its end."""

from __future__ import annotations

import json
import logging
import re
import time
from typing import Any, Protocol

from headrace.errors import ServerError
from headrace.types import RelayRequest, Usage

log = logging.getLogger(__name__)

# Never inside a string: there its quotes have backslashes before them.
USAGE = re.compile(rb'"usage"\s*:\s*(?=\{)')
MAX_USAGE = 4096  # bytes
DECODER = json.JSONDecoder()


class Tally:
    """One request's. `status` and `code`: of the error it ended with, else 200 and None. Times are from its
    arrival; None: it did not come to that.
    """

    def __init__(self, request: RelayRequest) -> None:
        self.request, self._began = request, time.perf_counter()
        self.provider: str | None = None
        self.attempts = 0
        self.status = 200
        self.code: str | None = None
        self.first_byte_s: float | None = None
        self.took_s = 0.0
        self._told: list[bytes] = []  # the first and the last piece that tell a usage

    def reached(self, provider: str, attempts: int) -> None:
        self.provider, self.attempts = provider, attempts

    def saw(self, piece: bytes) -> None:
        """Whole events, or a whole body."""
        if self.first_byte_s is None:
            self.first_byte_s = time.perf_counter() - self._began
        if b'"usage"' in piece and USAGE.search(piece):
            self._told[1:] = [piece]

    def failed(self, error: Exception) -> None:
        self.status, self.code = (error.status, error.code) if isinstance(error, ServerError) else (500, None)

    def ended(self) -> None:
        self.took_s = time.perf_counter() - self._began

    @property
    def usage(self) -> Usage | None:
        """None: the provider did not tell."""
        return _usage(self._told)


class Meter(Protocol):
    """Is told of every request that was passed on, once, when it is over."""

    def record(self, tally: Tally) -> None: ...


class LoggingMeter:
    def record(self, tally: Tally) -> None:
        if log.isEnabledFor(logging.DEBUG):
            of = tally.request
            log.debug(
                "endpoint=%s model=%s provider=%s attempts=%d stream=%s status=%d code=%s usage=%s "
                "first_byte_s=%s took_s=%.4f",
                of.endpoint, of.model, tally.provider, tally.attempts, of.is_streamed, tally.status,
                tally.code, tally.usage, tally.first_byte_s, tally.took_s,
            )  # fmt: skip


def _usage(pieces: list[bytes]) -> Usage | None:
    """Of what several events tell each member counts as it was told last."""
    told: dict[str, Any] = {}
    for piece in pieces:
        for match in USAGE.finditer(piece):
            text = piece[match.end() : match.end() + MAX_USAGE].decode(errors="replace")
            try:
                told |= DECODER.raw_decode(text)[0]
            except (ValueError, RecursionError):
                continue
    return _counted(told) if told else None


def _counted(told: dict[str, Any]) -> Usage:
    """In either dialect: Anthropic's counts what is cached beside the rest of the prompt."""
    details = {**_object(told, "completion_tokens_details"), **_object(told, "prompt_tokens_details")}
    read, written = _number(told, "cache_read_input_tokens"), _number(told, "cache_creation_input_tokens")
    return Usage(
        prompt_tokens=_number(told, "prompt_tokens") + _number(told, "input_tokens") + read + written,
        completion_tokens=_number(told, "completion_tokens") + _number(told, "output_tokens"),
        cached_tokens=_number(details, "cached_tokens") + read,
        reasoning_tokens=_number(details, "reasoning_tokens"),
        cache_write_tokens=_number(details, "cache_write_tokens") + written,
    )


def _object(told: dict[str, Any], name: str) -> dict[str, Any]:
    value = told.get(name)
    return value if isinstance(value, dict) else {}


def _number(told: dict[str, Any], name: str) -> int:
    value = told.get(name)
    return value if isinstance(value, int) and value > 0 else 0
