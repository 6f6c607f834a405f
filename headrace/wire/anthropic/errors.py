"""Errors in Anthropic's shape."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from headrace.errors import ContextTooLong, ServerError


class ErrorOfMessages(BaseModel):
    type: str
    message: str


class MessagesErrorResponse(BaseModel):
    type: Literal["error"]
    error: ErrorOfMessages
    request_id: str | None


TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def to_body(error: ServerError, request_id: str | None) -> dict[str, Any]:
    other = "invalid_request_error" if error.status < 500 else "api_error"
    told = {"type": TYPES.get(error.status, other), "message": _message(error)}
    return {"type": "error", "error": told, "request_id": request_id}


TOO_LONG = "prompt is too long"  # by these words clients of Anthropic's dialect recognise an overflow


def _message(error: ServerError) -> str:
    if not isinstance(error, ContextTooLong) or error.message.startswith(TOO_LONG):
        return error.message
    if error.limit is None or error.requested is None:
        return f"{TOO_LONG}: {error.message}"
    return f"{TOO_LONG}: {error.requested} tokens > {error.limit} maximum"
