"""Routes that exist under /v1 and, for one provider, under /{provider}/v1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import APIRouter
from pydantic import BaseModel

from headrace.api.openapi import body_of

Handler = TypeVar("Handler", bound=Callable[..., Any])


def route(
    router: APIRouter,
    method: str,
    path: str,
    *,
    body: type[BaseModel] | None = None,
    at_root: bool = False,
    **options: Any,
) -> Callable[[Handler], Handler]:
    """Registers a handler at `/v1{path}`, documented, and at `/{provider}/v1{path}`; with `at_root` at `path`
    too. `body` documents the body that the handler reads; `options` are those of FastAPI's
    `add_api_route`.
    """
    if body is not None:
        options["openapi_extra"] = body_of(body)

    def register(handler: Handler) -> Handler:
        for prefix in ("/v1", "") if at_root else ("/v1",):
            router.add_api_route(prefix + path, handler, methods=[method], **options)
        router.add_api_route(
            "/{provider}/v1" + path, handler, methods=[method], **{**options, "include_in_schema": False}
        )
        return handler

    return register
