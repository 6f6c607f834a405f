"""An answer of known length is written in one piece, where nothing has to wait for it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from headrace.server.writing import JoinedWrites


class Written(asyncio.Transport):
    """A transport that notes what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] = []
        self._is_closing = False

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self.pieces.append(bytes(data))

    def close(self) -> None:
        self._is_closing = True

    def is_closing(self) -> bool:
        return self._is_closing


def writes(length: int | None, *, is_started: bool = True) -> tuple[JoinedWrites, Written]:
    """`length`: of the body; None: it is chunked."""
    cycle: Any = SimpleNamespace(
        response_started=is_started, chunked_encoding=length is None, expected_content_length=length or 0
    )
    transport = Written()
    return JoinedWrites(transport, cycle, asyncio.get_running_loop()), transport


def test_head_and_body_are_one_piece() -> None:
    async def work() -> None:
        answer, transport = writes(4)
        answer.write(b"head ")
        answer.write(b"body")
        await asyncio.sleep(0)
        assert transport.pieces == [b"head body"]

    asyncio.run(work())


def test_a_head_does_not_wait_for_a_body_that_comes_later() -> None:
    async def work() -> None:
        answer, transport = writes(4)
        answer.write(b"head ")
        await asyncio.sleep(0)
        assert transport.pieces == [b"head "]
        answer.write(b"body")
        assert transport.pieces == [b"head ", b"body"]

    asyncio.run(work())


def test_streams_empty_answers_and_what_comes_before_a_head_are_written_at_once() -> None:
    async def work() -> None:
        for length in (None, 0):
            answer, transport = writes(length)
            answer.write(b"head ")
            assert transport.pieces == [b"head "]
        answer, transport = writes(4, is_started=False)
        answer.write(b"100 Continue")
        assert transport.pieces == [b"100 Continue"]

    asyncio.run(work())


def test_a_head_without_its_body_is_written_before_the_connection_closes() -> None:
    async def work() -> None:
        answer, transport = writes(4)
        answer.write(b"head ")
        answer.close()
        assert (transport.pieces, transport.is_closing()) == ([b"head "], True)
        await asyncio.sleep(0)
        assert transport.pieces == [b"head "]

    asyncio.run(work())
