"""Errors for requests that are refused before they reach the app, as the bytes of a response."""

from __future__ import annotations

import json
import secrets
from http import HTTPStatus

from headrace.errors import BadRequest, ServerError
from headrace.wire.errors import to_body


class HeadTooLarge(BadRequest):
    status, code = 431, "request_header_fields_too_large"


class TargetTooLong(BadRequest):
    status, code = 414, "uri_too_long"


class TooSlow(BadRequest):
    """A request that did not arrive in time. OpenAI's SDKs retry after a 408."""

    status, code = 408, "request_timeout"


class ExpectationFailed(BadRequest):
    status, code = 417, "expectation_failed"


class NotImplementedHere(BadRequest):
    status, code = 501, "not_implemented"


class VersionNotSupported(BadRequest):
    status, code = 505, "http_version_not_supported"


def to_bytes(error: ServerError, default_headers: list[tuple[bytes, bytes]]) -> bytes:
    """A whole response in OpenAI's shape, which announces that the connection closes."""
    body = json.dumps(to_body(error)).encode()
    phrase = HTTPStatus(error.status).phrase
    own = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
        "X-Content-Type-Options": "nosniff",
        "X-Request-ID": f"req_{secrets.token_hex(12)}",
        **error.headers,
    }
    lines = [f"HTTP/1.1 {error.status} {phrase}".encode()]
    lines += [name + b": " + value for name, value in default_headers]
    lines += [f"{name}: {value}".encode("latin-1") for name, value in own.items()]
    return b"\r\n".join([*lines, b"", body])
