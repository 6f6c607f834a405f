"""POST /tokenize and /detokenize, GET /tokenizer_info; under /v1 too."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request, Response

from headrace.api.errors import RESPONSES
from headrace.api.request import Caller, base_model, destination, name_ignored, prepared
from headrace.api.routes import ROOT_TOO, route
from headrace.gateway.lifetime import Until
from headrace.offload import aside
from headrace.wire import tokens as wire
from headrace.wire.tables import TOKENS

router = APIRouter(tags=["tokens"], responses=RESPONSES)

TOKEN = 32  # bytes of work, in the measure of headrace.offload, for writing one token


@route(
    router, "POST", "/tokenize", summary="Tokenize a text or a conversation", answer=wire.Tokens,
    under=ROOT_TOO,
)  # fmt: skip
async def tokenize(http: Request, response: Response, _: Caller, body: wire.TokenizeBody) -> Response:
    await name_ignored(http, response, body, TOKENS)
    gateway, provider = destination(http)
    info = gateway.router.model(body.model and base_model(http, body.model), provider)
    request = await prepared(http, partial(wire.to_request, body, info))
    strings = None
    async with Until(receive=http.receive):
        tokens = await gateway.tokenize(request, provider)
        if body.return_token_strs:
            strings = await gateway.token_texts(info.id, tokens, provider)
        content = await aside(len(tokens) * TOKEN, partial(wire.written, tokens, info, strings))
    return Response(content, media_type="application/json", headers=response.headers)


@route(router, "POST", "/detokenize", summary="Turn token ids into text", under=ROOT_TOO)
async def detokenize(http: Request, response: Response, _: Caller, body: wire.DetokenizeBody) -> wire.Text:
    await name_ignored(http, response, body, TOKENS)
    gateway, provider = destination(http)
    model = gateway.router.model(body.model and base_model(http, body.model), provider).id
    async with Until(receive=http.receive):
        return wire.text(await gateway.detokenize(model, body.tokens, provider))


@route(router, "GET", "/tokenizer_info", summary="Retrieve the special tokens", under=ROOT_TOO)
async def tokenizer_info(http: Request, _: Caller, model: str | None = None) -> wire.TokenizerDescription:
    gateway, provider = destination(http)
    info = gateway.router.model(model and base_model(http, model), provider)
    async with Until(receive=http.receive):
        return wire.tokenizer(info, await gateway.tokenizer_info(info.id, provider))
