"""The errors of schemas."""

from __future__ import annotations

from headrace.errors import BadRequest, bounded

MAX_REASON = 300  # characters


class InvalidSchema(BadRequest):
    """The schema is not a JSON schema, or no value satisfies it."""

    code = "invalid_schema"


class UnsupportedSchema(BadRequest):
    """A part of the schema cannot be enforced."""

    code = "unsupported_schema"


def invalid(path: str, reason: str) -> InvalidSchema:
    return InvalidSchema(f"{path}: {bounded(reason, MAX_REASON)}", param=path)


def unsupported(path: str, reason: str) -> UnsupportedSchema:
    return UnsupportedSchema(f"{path}: {bounded(reason, MAX_REASON)}", param=path)
