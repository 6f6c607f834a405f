"""The base of the readers of relayed answers, one for each dialect. Large JSON bodies and streams are
searched for the few members that Headrace needs, and the rest is not parsed.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from headrace.backends.answer import object_in
from headrace.backends.choice import is_broken
from headrace.backends.http import Upstream
from headrace.backends.sse import ServerSentEvent
from headrace.dialects.values import DECODER, Object, an_object, parsed, whole
from headrace.errors import ProviderError, ServerError
from headrace.types import Usage

# This cannot match inside a JSON string, where a backslash precedes every quote.
USAGE = re.compile(rb'"usage"\s*:\s*(?=\{)')
# two fields in one line, or two events without an empty line between them
ODD_FRAME = re.compile(rb"data: ?data:|\}[ \t]*(?:\r\n|\r|\n)(?:data:|event:)")
# the first event, of which is not known whether an empty line ends it
OPEN_END = re.compile(rb"\A(?!.*(?:\n\r?\n|\r\r)).*\}[ \t]*(?:\r\n|\r|\n)[a-z]{0,5}\Z", re.DOTALL)
MAX_USAGE = 4096  # bytes
TAIL = 256  # bytes at the end of some events that are searched for the last one
MAX_VALUE = 2**16  # bytes of a member's value that is parsed
TOKEN = re.compile(
    rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{}"]', re.DOTALL
)  # a string, a bracket, or a string's half
BLANKS = b" \t\r\n"
BOM = b"\xef\xbb\xbf"


class RelayReader(ABC):
    """Reads the answer to one relayed request, in its dialect. `last` matches the last event of a stream,
    which contains `last_word`. All events that may be errors or that `follow` has to read contain one of
    `notable` or match `reason`, and few others do. `part` matches any event that is a part of an answer.
    `has_part`: one has arrived; `is_over`: the stream is complete.

    Every byte of every stream is searched for these: a search for a constant, or for a pattern that begins
    with one, costs a twentieth of a search for a pattern that may begin in several ways.
    """

    last: re.Pattern[bytes]
    last_word: bytes
    notable: tuple[bytes, ...]
    reason: re.Pattern[bytes]
    part: re.Pattern[bytes]
    has_part = False
    is_over = False

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream

    @property
    def provider(self) -> str:
        return self.upstream.provider

    def is_notable(self, events: bytes) -> bool:
        return any(map(events.__contains__, self.notable)) or self.reason.search(events) is not None

    def ends_with_last(self, events: bytes) -> bool:
        """Whether the last of these events is the last one of a stream."""
        start = max(0, len(events) - TAIL)
        return events.find(self.last_word, start) >= 0 and self.last.search(events, start) is not None

    def is_odd(self, beginning: bytes) -> bool:
        """Whether a stream that begins so is framed in a way that clients cannot read."""
        return ODD_FRAME.search(beginning) is not None

    def is_message(self, events: bytes) -> bool:
        """Whether events of a stream have a whole message where clients look for a piece of one."""
        return False

    def framed(self, sent: ServerSentEvent) -> bytes:
        """Write an event as clients read it."""
        name = f"event: {sent.event}\n" if sent.event else ""
        data = sent.data.replace("\n", " ")  # between values of JSON
        return f"{name}data: {data}\n\n".encode(errors="replace")

    def error(self, sent: ServerSentEvent) -> ServerError | None:
        """Return the error that an event reports, if any. Raises ProviderError if it is no JSON object."""
        value = object_in(self.provider, sent)
        return None if value is None else self.error_in(sent, value)

    def has_content(self, sent: ServerSentEvent) -> bool:
        """Whether the event carries content, after which no other target may answer instead."""
        try:
            return self.content_in(sent, object_in(self.provider, sent) or {})
        except ProviderError:
            return True

    def is_end(self, sent: ServerSentEvent) -> bool:
        """Whether the event ends a stream, so that no answer can begin with it."""
        return False

    def is_readable(self, sent: ServerSentEvent) -> bool:
        """Whether an error has the shape that clients read: {"error": {"message": text}}."""
        try:
            error = an_object(whole(sent.data)).get("error")
        except (ValueError, RecursionError):
            return False
        return not sent.is_bare and isinstance(error, dict) and isinstance(error.get("message"), str)

    def cut(self) -> ProviderError:
        """The error for a stream that ends too early."""
        return ProviderError(f"{self.provider} ended its answer in the middle")

    @property
    @abstractmethod
    def member(self) -> str:
        """The member of a whole body that contains the answer."""

    @abstractmethod
    def is_answer(self, value: object) -> bool:
        """Whether this value of that member is an answer."""

    @abstractmethod
    def reasons(self, members: Object) -> list[str]:
        """The reasons for which a whole answer ended."""

    def check_whole(self, members: Object, *, is_outline: bool = False) -> None:
        """Raise ProviderError for a whole body that is no answer, or that ended with a failure.
        `is_outline`: large members were not parsed.
        """
        value = members.get(self.member)
        is_unread = is_outline and value is None and self.member in members
        if not (is_unread or self.is_answer(value)):
            raise ProviderError(f"{self.provider} answered with something that is no answer")
        if any(map(is_broken, self.reasons(members))):
            raise ProviderError(f"{self.provider} failed in the middle of its answer")

    @abstractmethod
    def follow(self, sents: Sequence[ServerSentEvent]) -> None:
        """Set `is_over` when these events end the answer. Raises ProviderError if it ends with a failure."""

    @abstractmethod
    def error_in(self, sent: ServerSentEvent, value: Object) -> ServerError | None: ...

    @abstractmethod
    def content_in(self, sent: ServerSentEvent, value: Object) -> bool: ...

    @abstractmethod
    def usage(self, members: Object) -> Usage | None:
        """Read the members of a `usage` object; None: they are incomplete."""

    @abstractmethod
    def folded(self, sents: Sequence[ServerSentEvent]) -> bytes:
        """Convert a stream into one JSON body. Raises ServerError."""

    @abstractmethod
    def unfolded(self, whole: Object) -> bytes:
        """Convert a JSON body into a stream."""


class UsageScan:
    """`read` turns the members of a `usage` object into a Usage, or None if they are incomplete."""

    def __init__(self, read: Callable[[Object], Usage | None]) -> None:
        self._read = read
        self._pieces: list[bytes] = []  # the first and the last piece with a usage

    def push(self, piece: bytes) -> None:
        """Inspect whole events."""
        if b'"usage"' in piece and USAGE.search(piece):
            self._pieces[1:] = [piece]

    def usage(self) -> Usage | None:
        """The usage so far, in which a later piece overrides the members of an earlier one, but not with 0 or
        null; None: unknown.
        """
        members: dict[str, Any] = {}
        for piece in self._pieces:
            for match in USAGE.finditer(piece):
                text = piece[match.end() : match.end() + MAX_USAGE].decode(errors="replace")
                try:
                    values = DECODER.raw_decode(text)[0]
                except (ValueError, RecursionError):
                    continue
                members |= {name: value for name, value in values.items() if value or name not in members}
        return self._read(members) if members else None


def outline(raw: bytes) -> Object:
    """The members of the object, in which a value of more than MAX_VALUE bytes is None, unless it is an
    error. Raises ValueError if `raw` is no object, or breaks off.
    """
    raw = raw.removeprefix(BOM).strip(BLANKS)
    depth, names, end = 0, list[tuple[int, int]](), 0  # names: (start, end) of each member's name
    for token in TOKEN.finditer(raw):
        mark = raw[token.start()]
        if mark in b"{[":
            depth += 1
        elif mark in b"}]":
            depth -= 1
            end = token.end()
        elif token.end() == token.start() + 1:
            raise ValueError("a string does not end")
        elif depth == 1 and _is_name(raw, token.end()):
            names.append(token.span())
        if depth == 0:
            break
    if depth or not end or raw[:1] != b"{" or raw[end:].strip(BLANKS):
        raise ValueError("it is no whole object")
    ends = [*(start for start, _ in names), end - 1][1:]
    members: Object = {}
    for (start, name_end), value_end in zip(names, ends, strict=True):
        name = str(parsed(raw[start:name_end]))
        is_read = name == "error" or value_end - name_end <= MAX_VALUE
        members[name] = _value(raw[name_end:value_end]) if is_read else None
    return members


def _is_name(raw: bytes, at: int) -> bool:
    return raw[at : at + 64].lstrip(BLANKS).startswith(b":")


def _value(between: bytes) -> Any:
    """The value between a name and the next name, or the object's end."""
    return parsed(between.strip(BLANKS).removeprefix(b":").removesuffix(b","))
