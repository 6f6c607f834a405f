"""Errors in Anthropic's shape."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from headrace.dialects.anthropic import TOO_LONG, error_type
from headrace.errors import ContextTooLong, ServerError


class ErrorOfMessages(BaseModel):
    type: str
    message: str


class MessagesErrorResponse(BaseModel):
    type: Literal["error"]
    error: ErrorOfMessages
    request_id: str | None


def to_body(error: ServerError, request_id: str | None) -> dict[str, Any]:
    described = {"type": error_type(error.status), "message": _message(error)}
    return {"type": "error", "error": described, "request_id": request_id}


def _message(error: ServerError) -> str:
    if not isinstance(error, ContextTooLong) or error.message.startswith(TOO_LONG):
        return error.message
    if error.limit is None or error.requested is None:
        return f"{TOO_LONG}: {error.message}"
    return f"{TOO_LONG}: {error.requested} tokens > {error.limit} maximum"
