"""JSON answers that every client can read, whatever text and numbers they contain. Large ones are
built and serialized off the event loop, in pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from starlette import responses

from headrace.finite import dumped_pieces, dumps
from headrace.offload import aside, while_wanted

COMPACT = (",", ":")  # separators


class JSONResponse(responses.JSONResponse):
    """A JSON response that replaces what JSON cannot hold (NaN, infinity, unpaired surrogates)."""

    def render(self, content: object) -> bytes:
        return _encoded(_dumped(content))


async def json_answer(
    size: int, make: Callable[[], Mapping[str, Any]], headers: Mapping[str, str]
) -> responses.Response:
    """The JSON of what `make` returns. `size`: its approximate size, in bytes."""
    content = await aside(size, lambda: _written(make()))
    return responses.Response(content, media_type="application/json", headers=headers)


def _written(value: Mapping[str, Any]) -> bytes:
    pieces = dumped_pieces(value, ensure_ascii=False, separators=COMPACT)
    return _encoded("".join(while_wanted(pieces)))


def _dumped(value: object) -> str:
    return dumps(value, ensure_ascii=False, separators=COMPACT)


def _encoded(text: str) -> bytes:
    return text.encode(errors="replace")
