"""Errors in Ollama's shape: one text, which begins with the member at fault where there is one."""

from __future__ import annotations

from typing_extensions import TypedDict

from headrace.errors import ModelNotFound, ProviderNotFound, ServerError


class OllamaErrorResponse(TypedDict):
    error: str


def to_body(error: ServerError) -> OllamaErrorResponse:
    """The error. Clients recognise a missing model by Ollama's words (`not found, try pulling it first`)."""
    if isinstance(error, ModelNotFound | ProviderNotFound) and "not found" not in error.message:
        return {"error": f"model not found, try pulling it first: {error.message}"}
    return {"error": error.message}
