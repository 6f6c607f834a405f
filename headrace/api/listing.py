"""Query parameters of lists, as dependencies. An error is a 400 that names the parameter; unknown parameters
are named in X-Headrace-Ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Depends, Request, Response

from headrace.api.request import is_strict
from headrace.errors import BadRequest
from headrace.wire import pagination
from headrace.wire.pagination import INCLUDABLE, LISTED, MAX_LIMIT, USUAL_LIMIT, Listing, Order, Query
from headrace.wire.parameters import with_named


def described(order: Order, *, include: bool = False, more: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """The `openapi_extra` of a route that lists. `order`: its default; `more`: further query parameters."""
    limit = {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": USUAL_LIMIT}
    members = {
        "limit": limit,
        "order": {"enum": ["asc", "desc"], "default": order},
        "after": {"type": "string", "description": "The id of the entry before the page."},
        **({"include": {"type": "array", "items": {"enum": list(INCLUDABLE)}}} if include else {}),
    }
    listed = [{"name": name, "in": "query", "schema": schema} for name, schema in members.items()]
    return {"parameters": [*listed, *more]}


def query_of(http: Request, response: Response, known: tuple[str, ...]) -> Query:
    """The query parameters. `known`: the names that the route reads. Raises BadRequest."""
    query = pagination.check(http.query_params.multi_items())
    unknown = pagination.unknown(query, known)
    if unknown and is_strict(http):
        raise BadRequest(f"unrecognized query member: {unknown[0][:200]}", param=unknown[0][:200])
    response.headers.update(with_named({}, unknown))
    return query


async def _oldest_first(http: Request, response: Response) -> Listing:
    return pagination.listing(query_of(http, response, LISTED), "asc", is_cut=True)


async def _newest_first(http: Request, response: Response) -> Listing:
    return pagination.listing(query_of(http, response, LISTED), "desc")


async def _included(http: Request, response: Response) -> tuple[str, ...]:
    return pagination.include(query_of(http, response, ("include",)))


OldestFirst = Annotated[Listing, Depends(_oldest_first)]
NewestFirst = Annotated[Listing, Depends(_newest_first)]
Included = Annotated[tuple[str, ...], Depends(_included)]
