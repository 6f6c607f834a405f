"""Values of the relay: a request that is passed on to a provider of the same dialect, and its answer. Members
of the request can be replaced while all others keep their exact bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, Protocol, runtime_checkable

from headrace.finite import dumped_pieces
from headrace.types import Usage

Dialect = Literal["openai", "anthropic"]


# The first two are not frozen: they are created for each request, and that takes three times as long for a
# frozen object.
BEGINNING = re.compile(r"[ \t\n\r]*\{[ \t\n\r]*")
NAME = re.compile(r'("(?:[^"\\\x00-\x1f]|\\.)*+")[ \t\n\r]*:[ \t\n\r]*')
COMMA = re.compile(r"[ \t\n\r]*,[ \t\n\r]*")
END = re.compile(r"[ \t\n\r]*\}[ \t\n\r]*")


def _no_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


DECODER = json.JSONDecoder(parse_constant=_no_json)


class Verbatim:
    """Parses `raw`, a JSON object in UTF-8. `members`: the parsed object; of duplicate names the last counts.
    Raises ValueError or RecursionError if it is not a JSON object.
    """

    __slots__ = ("_spans", "_start", "_text", "members")

    def __init__(self, raw: bytes) -> None:
        self._text = text = raw.decode()
        self.members: dict[str, Any] = {}
        self._spans: list[tuple[str, int, int]] = []  # (name, start of the value, its end)
        beginning = BEGINNING.match(text)
        if beginning is None:
            raise ValueError("it is no object")
        self._start = at = beginning.end()
        end = END.match(text, at)
        if end is None:
            at = self._member(at)
            while comma := COMMA.match(text, at):
                at = self._member(comma.end())
            end = END.match(text, at)
        if end is None or end.end() != len(text):
            raise ValueError(f"it does not end at {at}")

    @property
    def size(self) -> int:
        """The length in characters."""
        return len(self._text)

    def changed(self, members: Mapping[str, object]) -> bytes:
        """The object with these members replaced or, in front, added; all else unchanged."""
        text, parts, at = self._text, [self._text[: self._start]], self._start
        new = {name: value for name, value in members.items() if name not in self.members}
        if new:
            comma = ", " if self.members else ""
            parts += ["".join(dumped_pieces(new))[1:-1], comma]
        for name, start, end in self._spans:
            if name in members:
                parts += [text[at:start], *dumped_pieces(members[name])]
                at = end
        parts.append(text[at:])
        return "".join(parts).encode()

    def _member(self, at: int) -> int:
        """Read the member at a position. Returns where its value ends."""
        match = NAME.match(self._text, at)
        if match is None:
            raise ValueError(f"a name is missing at {at}")
        name: str = json.loads(match[1]) if "\\" in match[1] else match[1][1:-1]
        self.members[name], end = DECODER.raw_decode(self._text, match.end())
        self._spans.append((name, match.end(), end))
        return end


@dataclass(slots=True)
class RelayRequest:
    """A request as the caller wrote it, for a provider of the same dialect. `endpoint`: the path below the
    provider's address, e.g. /chat/completions; `headers`: those of the dialect.
    """

    dialect: Dialect
    endpoint: str
    body: Verbatim
    model: str
    is_streamed: bool
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float | None = None
    owner: str | None = None  # the principal's id
    max_tokens: int | None = None  # of each answer, where the body does not limit them; None: nothing does
    adds_usage: bool = False  # the provider sends the usage of a stream, and the caller does not get it


def num_prompts(members: Mapping[str, Any]) -> int:
    """The number of prompts in a body, each of which has `n` answers. A list of numbers is one, as tokens."""
    prompt = members.get("prompt")
    return len(prompt) if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list) else 1


@dataclass(slots=True)
class Relayed:
    """A provider's answer in its own bytes: the whole body, or a stream of pieces that are whole events, the
    first of which has arrived. `headers`: those that are passed on. `usage` returns the usage in the part of
    the answer that has been read; None: there is none yet. `is_over` returns whether the last event of a
    stream is among what has been read. `ignored`: paths, without indices, of request
    members that were left out or changed.
    """

    headers: tuple[tuple[bytes, bytes], ...]
    answer: bytes | AsyncIterator[bytes]
    usage: Callable[[], Usage | None]
    is_over: Callable[[], bool]
    ignored: tuple[str, ...] = ()


@runtime_checkable
class Relaying(Protocol):
    """A backend that can also pass on requests in its own dialect unchanged."""

    def relays(self, request: RelayRequest, model: str) -> bool:
        """Whether the request can be passed on with only its model or a limit changed. Cheap."""
        ...

    def relay(
        self, request: RelayRequest, model: str, *, until_content: bool = False
    ) -> AbstractAsyncContextManager[Relayed]:
        """Send the request for `model`, the provider's name of it. Entering raises ServerError, also for an
        answer that is an error; leaving closes the connection. `until_content`: entering waits for the
        stream's first content, so that until then the caller can fall back on another provider.
        """
        ...
