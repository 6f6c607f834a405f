"""Reads single headers of a request. Starlette's own view of them takes four calls for each."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.requests import HTTPConnection


def header_of(http: HTTPConnection, name: bytes) -> str | None:
    """The first header of this name, which is in lower case."""
    for own, value in http.scope["headers"]:
        if own == name:
            return str(value, "latin-1")
    return None


def headers_of(http: HTTPConnection, names: Iterable[str]) -> dict[str, str]:
    """The request headers with these names. Several lines of one header are one list (RFC 9110, 5.3)."""
    return {name: ", ".join(dict.fromkeys(lines)) for name in names if (lines := http.headers.getlist(name))}
