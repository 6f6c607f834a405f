"""JSON answers that every client can read, whatever came from a provider or from a caller. Large ones are
made and written off the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from starlette import responses

from headrace.finite import dumps
from headrace.offload import SMALL, aside

DEPTH = 6  # of what is written piece by piece: a response's output, its item, its content, its logprobs


class JSONResponse(responses.JSONResponse):
    """Numbers that JSON does not have, and halves of characters, are replaced instead of failing."""

    def render(self, content: object) -> bytes:
        return _encoded(_dumped(content))


async def json_answer(
    size: int, make: Callable[[], Mapping[str, Any]], headers: Mapping[str, str]
) -> responses.Response:
    """What `make` returns, as JSON. `size`: about how many bytes that will be."""
    content = await aside(size, lambda: _written(make(), in_pieces=size > SMALL))
    return responses.Response(content, media_type="application/json", headers=headers)


def _written(value: Mapping[str, Any], *, in_pieces: bool) -> bytes:
    """`in_pieces`: so that other threads run between them. The encoder keeps the interpreter to itself."""
    return _encoded("".join(_pieces(value)) if in_pieces else _dumped(value))


def _pieces(value: object, depth: int = 0) -> Iterator[str]:
    if depth < DEPTH and value and isinstance(value, dict):
        yield "{"
        for index, (name, member) in enumerate(value.items()):
            yield f"{',' if index else ''}{_dumped(name)}:"
            yield from _pieces(member, depth + 1)
        yield "}"
    elif depth < DEPTH and value and isinstance(value, list):
        yield "["
        for index, entry in enumerate(value):
            yield "," if index else ""
            yield from _pieces(entry, depth + 1)
        yield "]"
    else:
        yield _dumped(value)


def _dumped(value: object) -> str:
    return dumps(value, ensure_ascii=False, separators=(",", ":"))


def _encoded(text: str) -> bytes:
    return text.encode(errors="replace")
