"""The headers of a request by name."""

from __future__ import annotations

from starlette.types import Scope

FIRST = "headrace.headers"  # key of a request's scope: the first header of each name


def first_headers(scope: Scope) -> dict[bytes, bytes]:
    """The first header of each name; the names are in lower case. Starlette's own headers search the whole
    list with several calls for each.
    """
    found: dict[bytes, bytes] | None = scope.get(FIRST)
    if found is None:
        found = scope[FIRST] = dict(reversed(scope["headers"]))
    return found
