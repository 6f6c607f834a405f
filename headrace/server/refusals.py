"""Requests that are refused before they reach the app: the checks of a request's line and headers that the
parser does not do itself, and the errors as the bytes of a response.
"""

from __future__ import annotations

import json
import re
import secrets
from http import HTTPStatus

import httptools

from headrace.errors import BadRequest, MethodNotAllowed, ServerError
from headrace.wire.errors import to_body

CONTROLS = re.compile(rb"%(?:[01][0-9a-f]|7f)", re.IGNORECASE)
VERSIONS = ("1.1", "1.0")

Headers = list[tuple[bytes, bytes]]  # names in lower case


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


class Refused(Exception):
    """Raised in a callback of the parser, to stop it with an error for the client."""

    def __init__(self, error: ServerError) -> None:
        super().__init__(error.message)
        self.error = error


def checked(version: str, method: bytes, target: bytes, headers: Headers) -> bytes:
    """The path and query of a request. The host of an absolute target replaces `Host` in `headers`. Raises
    Refused.
    """
    if version not in VERSIONS:
        raise Refused(VersionNotSupported(f"HTTP/{version} is not spoken here; HTTP/1.1 is"))
    if method == b"CONNECT":
        raise Refused(MethodNotAllowed("CONNECT is not allowed: this is no proxy", param="method"))
    for name, value in headers:
        if name == b"transfer-encoding":
            _check_encoding(version, value)
        elif name == b"expect" and value.lower() != b"100-continue":
            raise Refused(ExpectationFailed("of expectations, only 100-continue is met", param="Expect"))
    if not target.startswith(b"/") and target != b"*":
        target = _from_absolute(target, headers)
    if b"%" in target and CONTROLS.search(target.partition(b"?")[0]):
        raise Refused(BadRequest("the path has a control character", param="path"))
    return target


def _check_encoding(version: str, value: bytes) -> None:
    """Raise Refused for all encodings but chunked: if two servers disagree about where a body ends, a
    request can be smuggled in it.
    """
    if version == "1.0":
        raise Refused(BadRequest("HTTP/1.0 has no transfer encodings", param="Transfer-Encoding"))
    if value.lower() != b"chunked":
        error = NotImplementedHere(
            "of transfer encodings, only chunked is understood", param="Transfer-Encoding"
        )
        raise Refused(error)


def _from_absolute(target: bytes, headers: Headers) -> bytes:
    """The path and query of `GET http://HOST/PATH`. HOST replaces the Host header (RFC 9112, 3.2.2)."""
    parsed = httptools.parse_url(target)
    if parsed.schema not in (b"http", b"https") or parsed.host is None or parsed.userinfo is not None:
        raise Refused(BadRequest("the target of a request is a path", param="path"))
    host = b"[%s]" % parsed.host if b":" in parsed.host else parsed.host
    authority = host if parsed.port is None else b"%s:%d" % (host, parsed.port)
    headers[:] = [(name, value) for name, value in headers if name != b"host"]
    headers.append((b"host", authority))
    return (parsed.path or b"/") + (b"" if parsed.query is None else b"?" + parsed.query)
