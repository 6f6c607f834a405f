"""Turns over raw HTTP on one connection: those that are kept, and the same without being kept."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

QUESTION = "How much water does the wheel of a mill take, when the river is low and all buckets are whole?"
TURNS = 10  # of one conversation; then the next begins

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds. `tokens_s`: from the first piece of a stream to the last before its end."""

    whole_s: float
    tokens_s: float = 0.0


class Caller:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def to(cls, port: int) -> Caller:
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=2**20))

    def close(self) -> None:
        self._writer.close()

    async def post(
        self, path: str, body: Json, headers: Mapping[str, str] | None = None
    ) -> tuple[Took, Json]:
        """Raises AssertionError when it is not 200."""
        started = self._send(path, body, headers)
        length = (await self._head())["content-length"]
        raw = await self._reader.readexactly(int(length))
        return Took(time.perf_counter() - started), json.loads(raw)

    async def stream(
        self, path: str, body: Json, headers: Mapping[str, str] | None = None
    ) -> tuple[Took, bytes]:
        started = self._send(path, {**body, "stream": True}, headers)
        await self._head()
        received, first, before, last = bytearray(), 0.0, 0.0, 0.0
        while not received.endswith(b"0\r\n\r\n"):
            received += await self._reader.read(2**16)
            before, last = last, time.perf_counter()
            first = first or last
        assert b"data: [DONE]" in received
        return Took(last - started, before - first), bytes(received)

    def _send(self, path: str, body: Json, headers: Mapping[str, str] | None) -> float:
        raw = json.dumps(body).encode()
        fields = {"Host": "localhost", "Content-Type": "application/json", "Content-Length": len(raw)}
        told = "".join(f"{name}: {value}\r\n" for name, value in {**fields, **(headers or {})}.items())
        started = time.perf_counter()
        self._writer.write(f"POST /v1/{path} HTTP/1.1\r\n{told}\r\n".encode() + raw)
        return started

    async def _head(self) -> dict[str, str]:
        status, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        assert " 200 " in status + " ", status
        return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


class Way:
    """One way to ask for a turn, again and again; `turn` is one."""

    name = "chat, stateless"
    path = "chat/completions"

    def __init__(self, caller: Caller, model: str = "word", *, is_streamed: bool = False) -> None:
        self._caller, self._model, self._is_streamed = caller, model, is_streamed
        self._count = 0

    async def turn(self) -> Took:
        if self._count % TURNS == 0:
            await self.begin()
        self._count += 1
        if self._is_streamed:
            took, raw = await self._caller.stream(self.path, self.body(), self.headers())
            self.streamed(raw)
            return took
        took, answer = await self._caller.post(self.path, self.body(), self.headers())
        self.answered(answer)
        return took

    async def begin(self) -> None:
        """A new conversation."""

    def body(self) -> Json:
        message = {"role": "user", "content": f"{QUESTION} ({self._count})"}
        return {"model": self._model, "messages": [message]}

    def headers(self) -> dict[str, str]:
        return {}

    def answered(self, answer: Json) -> None:
        """What the next turn needs of it."""

    def streamed(self, raw: bytes) -> None:
        """The same, of a stream."""


class StoredChat(Way):
    name = "chat, `store: true`"

    def body(self) -> Json:
        return {**super().body(), "store": True}


class ChatInConversation(Way):
    name = "chat in a conversation"
    _id = ""

    async def begin(self) -> None:
        self._id = (await self._caller.post("conversations", {}))[1]["id"]

    def headers(self) -> dict[str, str]:
        return {"X-Conversation-ID": self._id}


class Response(Way):
    name = "response, `store: false`"
    path = "responses"
    is_stored = False

    def body(self) -> Json:
        return {"model": self._model, "input": f"{QUESTION} ({self._count})", "store": self.is_stored}


class StoredResponse(Response):
    name = "response, stored"
    is_stored = True


class NextResponse(StoredResponse):
    name = "response with `previous_response_id`"
    _last: str | None = None

    async def begin(self) -> None:
        self._last = None

    def body(self) -> Json:
        return {**super().body(), "previous_response_id": self._last}

    def answered(self, answer: Json) -> None:
        self._last = answer["id"]

    def streamed(self, raw: bytes) -> None:
        found = re.search(rb'"id":"(resp_[0-9a-f]+)"', raw)
        assert found is not None
        self._last = found[1].decode()


class ResponseInConversation(StoredResponse):
    name = "response in a conversation"
    _id = ""

    async def begin(self) -> None:
        self._id = (await self._caller.post("conversations", {}))[1]["id"]

    def body(self) -> Json:
        return {**super().body(), "conversation": self._id}


# each kept turn beside what it is compared with
PAIRS: tuple[tuple[type[Way], type[Way]], ...] = (
    (ChatInConversation, Way),
    (StoredChat, Way),
    (StoredResponse, Response),
    (NextResponse, Response),
    (ResponseInConversation, Response),
)
