"""Checks of a request's line and headers that the parser does not do itself."""

from __future__ import annotations

import re

import httptools

from headrace.errors import BadRequest, MethodNotAllowed, ServerError
from headrace.server.refusals import ExpectationFailed, NotImplementedHere, VersionNotSupported

CONTROLS = re.compile(rb"%(?:[01][0-9a-f]|7f)", re.IGNORECASE)
VERSIONS = ("1.1", "1.0")

Headers = list[tuple[bytes, bytes]]  # names in lower case


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
    """Raises Refused for all encodings but chunked: if two servers disagree about where a body ends, a
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
