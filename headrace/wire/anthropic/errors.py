"""Errors in Anthropic's shape."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict

from headrace.dialects.anthropic import TOO_LONG, error_type
from headrace.errors import ContextTooLong, ServerError


class ErrorOfMessages(TypedDict):
    type: str
    message: str


class MessagesErrorResponse(TypedDict):
    type: Literal["error"]
    error: ErrorOfMessages
    request_id: str | None


def to_body(error: ServerError, request_id: str | None) -> MessagesErrorResponse:
    described: ErrorOfMessages = {"type": error_type(error.status), "message": _message(error)}
    return {"type": "error", "error": described, "request_id": request_id}


def _message(error: ServerError) -> str:
    if not isinstance(error, ContextTooLong) or error.message.startswith(TOO_LONG):
        return error.message
    if error.limit is None or error.requested is None:
        return f"{TOO_LONG}: {error.message}"
    return f"{TOO_LONG}: {error.requested} tokens > {error.limit} maximum"
