"""Registers handlers under /v1 and, for one provider, under /{provider}/v1."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from functools import wraps
from types import UnionType
from typing import Annotated, Any, TypeVar, get_args, get_origin

from fastapi import APIRouter, Depends
from starlette.responses import Response

from headrace.api.json_response import answered
from headrace.api.openapi import Responses, content_of
from headrace.api.request import json_body

AnyHandler = Callable[..., Awaitable[Any]]
Handler = TypeVar("Handler", bound=AnyHandler)

V1 = ("/v1",)
V1_AND_PROVIDERS = ("/v1", "/{provider}/v1")
ROOT = ("",)
ROOT_TOO = ("/v1", "", "/{provider}/v1")


def route(
    router: APIRouter,
    method: str,
    path: str,
    *,
    under: Sequence[str] = V1_AND_PROVIDERS,
    answer: object = None,
    responses: Responses | None = None,
    extra: dict[str, Any] | None = None,
    is_body_optional: bool = False,
    **options: Any,
) -> Callable[[Handler], Handler]:
    """Registers a handler under these prefixes, and documents it under those without a {provider}.

    What the handler returns is sent as JSON, unless it is a Response. Its parameter `body`, if it has one, is
    the body, read and validated as the model that annotates it. `answer`: the type of the JSON in the
    Responses of a handler that returns no other type; `responses`: descriptions of further answers; `extra`:
    members of the OpenAPI operation; `options`: those of FastAPI's `add_api_route`.
    """

    def register(handler: Handler) -> Handler:
        signature = inspect.signature(handler, eval_str=True)
        operation = dict(extra or {})
        if body := signature.parameters.get("body"):
            model: Any = body.annotation
            operation["requestBody"] = {"required": True, **content_of(model)}
            reading = Annotated[model, Depends(json_body(model, is_optional=is_body_optional))]
            parameters = {**signature.parameters, "body": body.replace(annotation=reading)}
            signature = signature.replace(parameters=list(parameters.values()))
        endpoint = _endpoint(handler, signature)
        described = _described(answer or _answer(signature), responses or {})
        for prefix in under:
            router.add_api_route(
                prefix + path, endpoint, methods=[method], response_model=None, responses=described,
                openapi_extra=operation, include_in_schema="{provider}" not in prefix, **options,
            )  # fmt: skip
        return handler

    return register


def _answer(signature: inspect.Signature) -> object:
    """The type that a handler returns, beside Responses."""
    returned = signature.return_annotation
    union = get_args(returned) if get_origin(returned) is UnionType else (returned,)
    return next(type for type in union if type is not Response)


def _described(answer: object, responses: Responses) -> Responses:
    success = responses.get(200, {})
    content = {**content_of(answer)["content"], **success.get("content", {})}
    return {**responses, 200: {**success, "content": content}}


def _endpoint(handler: AnyHandler, signature: inspect.Signature) -> AnyHandler:
    """The function that FastAPI calls: the handler, if it returns a Response itself. FastAPI reads which
    parameters to pass from `__signature__`.
    """
    endpoint = handler if signature.return_annotation is Response else _with_json(handler, signature)
    if "response" not in signature.parameters and endpoint is not handler:
        response = inspect.Parameter("response", inspect.Parameter.KEYWORD_ONLY, annotation=Response)
        signature = signature.replace(parameters=[*signature.parameters.values(), response])
    setattr(endpoint, "__signature__", signature)  # noqa: B010  # functions have no such attribute for mypy
    return endpoint


def _with_json(handler: AnyHandler, signature: inspect.Signature) -> AnyHandler:
    """Sends the handler's answer as JSON, with the status and the headers that were set on `response`."""
    is_wanted = "response" in signature.parameters

    @wraps(handler)
    async def endpoint(*, response: Response, **values: Any) -> Response:
        answer = await handler(**values, **({"response": response} if is_wanted else {}))
        if isinstance(answer, Response):
            return answer
        return await answered(answer, response.headers, response.status_code)

    return endpoint
