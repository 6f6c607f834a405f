"""Why a schema is refused."""

from __future__ import annotations

from headrace.errors import BadRequest

MAX_REASON = 300  # characters


class InvalidSchema(BadRequest):
    """It is no JSON schema, or nothing satisfies it."""

    code = "invalid_schema"


class UnsupportedSchema(BadRequest):
    """It says something that cannot be enforced."""

    code = "unsupported_schema"


def invalid(path: str, reason: str) -> InvalidSchema:
    return InvalidSchema(f"{path}: {shortened(reason)}", param=path)


def unsupported(path: str, reason: str) -> UnsupportedSchema:
    return UnsupportedSchema(f"{path}: {shortened(reason)}", param=path)


def shortened(message: str) -> str:
    return message if len(message) <= MAX_REASON else message[:MAX_REASON] + "…"
