"""JSON answers that every client can read, whatever came from a provider or from a caller."""

from __future__ import annotations

from starlette import responses

from headrace.finite import dumps


class JSONResponse(responses.JSONResponse):
    """Numbers that JSON does not have, and halves of characters, are replaced instead of failing."""

    def render(self, content: object) -> bytes:
        return dumps(content, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
