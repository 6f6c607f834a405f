"""Errors in the shape of each dialect: OpenAI's, Anthropic's and Ollama's."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict

from headrace.dialects.anthropic import TOO_LONG, error_type
from headrace.errors import ContextTooLong, ModelNotFound, ProviderNotFound, ServerError


class ErrorBody(TypedDict):
    message: Annotated[str, Field(description="For people.")]
    type: str
    param: Annotated[str | None, Field(description="The member at fault, as a dotted path.")]
    code: Annotated[str | None, Field(description="For programs.")]


class ErrorResponse(TypedDict):
    error: ErrorBody


class ErrorOfMessages(TypedDict):
    type: str
    message: str


class MessagesErrorResponse(TypedDict):
    type: Literal["error"]
    error: ErrorOfMessages
    request_id: str | None


class OllamaErrorResponse(TypedDict):
    """One text, which begins with the member at fault where there is one."""

    error: str


def to_body(error: ServerError) -> ErrorResponse:
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}


def to_messages_body(error: ServerError, request_id: str | None) -> MessagesErrorResponse:
    described: ErrorOfMessages = {"type": error_type(error.status), "message": _message(error)}
    return {"type": "error", "error": described, "request_id": request_id}


def _message(error: ServerError) -> str:
    if not isinstance(error, ContextTooLong) or error.message.startswith(TOO_LONG):
        return error.message
    if error.limit is None or error.requested is None:
        return f"{TOO_LONG}: {error.message}"
    return f"{TOO_LONG}: {error.requested} tokens > {error.limit} maximum"


def to_ollama_body(error: ServerError) -> OllamaErrorResponse:
    """The error. Clients recognise a missing model by Ollama's words (`not found, try pulling it first`)."""
    if isinstance(error, ModelNotFound | ProviderNotFound) and "not found" not in error.message:
        return {"error": f"model not found, try pulling it first: {error.message}"}
    return {"error": error.message}
