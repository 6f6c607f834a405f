"""JSON answers that every client can read, whatever text and numbers they contain. Large ones are
built and serialized off the event loop, in pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette import responses

from headrace.finite import COMPACT, dumped_pieces, dumps, size_up_to
from headrace.offload import SMALL, aside, while_wanted


class JSONResponse(responses.JSONResponse):
    """A JSON response that replaces what JSON cannot hold (NaN, infinity, unpaired surrogates)."""

    def render(self, content: object) -> bytes:
        return _encoded(dumps(content, ensure_ascii=False, separators=COMPACT))


async def json_answer(
    size: int, make: Callable[[], object], headers: Mapping[str, str], status: int | None = None
) -> responses.Response:
    """The JSON of what `make` returns. `size`: its approximate size, in bytes."""
    content = await aside(size, lambda: _written(make()))
    return responses.Response(content, status or 200, headers, "application/json")


async def answered(
    value: object, headers: Mapping[str, str] | None = None, status: int | None = None
) -> responses.Response:
    """The JSON of a value, which may be as large as what is stored."""
    return await json_answer(size_up_to(value, SMALL), lambda: value, headers or {}, status)


def _written(value: object) -> bytes:
    pieces = dumped_pieces(value, ensure_ascii=False, separators=COMPACT)
    return _encoded("".join(while_wanted(pieces)))


def _encoded(text: str) -> bytes:
    return text.encode(errors="replace")
