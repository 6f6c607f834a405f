"""Errors in OpenAI's shape."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict

from headrace.errors import ServerError


class ErrorBody(TypedDict):
    message: Annotated[str, Field(description="For people.")]
    type: str
    param: Annotated[str | None, Field(description="The member at fault, as a dotted path.")]
    code: Annotated[str | None, Field(description="For programs.")]


class ErrorResponse(TypedDict):
    error: ErrorBody


def to_body(error: ServerError) -> ErrorResponse:
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}
