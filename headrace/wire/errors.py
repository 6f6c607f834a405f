"""Errors in OpenAI's shape."""

from __future__ import annotations

from pydantic import BaseModel, Field

from headrace.errors import ServerError


class ErrorBody(BaseModel):
    message: str = Field(description="For people.")
    type: str
    param: str | None = Field(description="The member at fault, as a dotted path.")
    code: str | None = Field(description="For programs.")


class ErrorResponse(BaseModel):
    error: ErrorBody


def to_body(error: ServerError) -> dict[str, object]:
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}
