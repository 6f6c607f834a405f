"""POST /api/chat, /api/generate, /api/embed and /api/embeddings: Ollama's dialect, over every backend."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from headrace.api.answers import Reply, StreamWriter, respond, target_headers
from headrace.api.authentication import administrator
from headrace.api.embeddings import BYTES_PER_VALUE
from headrace.api.json_response import JSONResponse, answered
from headrace.api.openapi import response_of, responses_of
from headrace.api.request import Caller, check_unsteered, is_strict, prepared
from headrace.api.routes import route
from headrace.callers import Principal
from headrace.errors import NotFound, ServerError
from headrace.features import Uses
from headrace.gateway.gateway import Gateway
from headrace.gateway.lifetime import Until
from headrace.gateway.routing import check_model
from headrace.offload import aside
from headrace.pool import Pool
from headrace.types import Embeddings, EmbedRequest, GenerateRequest
from headrace.wire.errors import OllamaErrorResponse, to_ollama_body
from headrace.wire.generation import dump
from headrace.wire.ollama import answer
from headrace.wire.ollama import request as wire
from headrace.wire.ollama.models import LATEST
from headrace.wire.ollama.tables import uses_of_chat, uses_of_embed, uses_of_generate
from headrace.wire.parameters import with_named

API = ("/api",)
NDJSON = "application/x-ndjson"
RESPONSES = responses_of(OllamaErrorResponse)


class LinesWriter(StreamWriter):
    """Sends one JSON text a line, errors as `{"error": text}`."""

    media_type = NDJSON
    final_texts = ()

    def silence(self) -> bytes:
        return self.keep_alive_frame

    def framed(self, texts: list[str]) -> bytes:
        return "".join(f"{text}\n" for text in texts).encode()

    def error_text(self, error: ServerError) -> str:
        return dump(to_ollama_body(error))


class ChatWriter(LinesWriter):
    # clients parse each line, so there is no comment: an empty piece keeps the connection open
    keep_alive_frame = b'{"message":{"role":"assistant","content":""},"done":false}\n'


class GenerateWriter(LinesWriter):
    keep_alive_frame = b'{"response":"","done":false}\n'


router = APIRouter(tags=["ollama"], responses=RESPONSES)


def known(gateway: Gateway, name: str) -> str:
    """The id of a model that is served, by its name with or without `:latest`. Raises ModelNotFound,
    ProviderNotFound.
    """
    try:
        gateway.router.first(name)
    except NotFound:
        if not name.endswith(LATEST):
            raise
        name = name.removesuffix(LATEST)
        gateway.router.first(name)
    return name


@route(
    router, "POST", "/chat", under=API, summary="Answer a conversation, in Ollama's dialect",
    answer=answer.ChatAnswer,
    responses={200: response_of(answer.ChatAnswer, "By default: one line each.", NDJSON)},
)  # fmt: skip
async def chat(http: Request, caller: Caller, body: wire.OllamaChatBody) -> Response:
    began = time.perf_counter()
    check_unsteered(http, body)
    uses = await prepared(http, partial(uses_of_chat, body, strict=is_strict(http)))
    dialect = answer.ChatDialect()
    if not body.messages:
        return await _load(http, caller, body, dialect, uses)
    request = await prepared(http, partial(wire.chat_request, body))
    _keep_loaded(http, body)
    return await _answer(http, caller, request, _reply(dialect, body, began, ChatWriter), uses)


@route(
    router, "POST", "/generate", under=API, summary="Answer a prompt, in Ollama's dialect",
    answer=answer.GenerateAnswer,
    responses={200: response_of(answer.GenerateAnswer, "By default: one line each.", NDJSON)},
)  # fmt: skip
async def generate(http: Request, caller: Caller, body: wire.OllamaGenerateBody) -> Response:
    began = time.perf_counter()
    check_unsteered(http, body)
    uses = await prepared(http, partial(uses_of_generate, body, strict=is_strict(http)))
    dialect = answer.GenerateDialect()
    if not body.prompt and not body.images and not body.suffix:
        return await _load(http, caller, body, dialect, uses)
    request = await prepared(http, partial(wire.generate_request, body))
    _keep_loaded(http, body)
    return await _answer(http, caller, request, _reply(dialect, body, began, GenerateWriter), uses)


@route(
    router, "POST", "/embed", under=API, summary="Embed texts, in Ollama's dialect",
    answer=answer.EmbedAnswer,
)  # fmt: skip
async def embed(http: Request, caller: Caller, body: wire.EmbedBody) -> Response:
    began = time.perf_counter()
    check_unsteered(http, body)
    uses = await prepared(http, partial(uses_of_embed, body, strict=is_strict(http)))
    _keep_loaded(http, body)
    embeddings, headers = await _embedded(http, caller, wire.embed_request(body), uses)
    size = 0 if embeddings is None else embeddings.vectors.size * BYTES_PER_VALUE
    content = await aside(size, partial(answer.embed_answer, body.model, embeddings, began))
    return Response(content, media_type="application/json", headers=headers)


@route(
    router, "POST", "/embeddings", under=API, summary="Embed one text, in the older form",
    answer=answer.EmbeddingsAnswer,
)  # fmt: skip
async def embed_one(http: Request, caller: Caller, body: wire.OllamaEmbeddingsBody) -> Response:
    check_unsteered(http, body)
    uses = await prepared(http, partial(uses_of_embed, body, strict=is_strict(http)))
    _keep_loaded(http, body)
    embeddings, headers = await _embedded(http, caller, wire.embeddings_request(body), uses)
    return await answered(answer.embeddings_answer(embeddings), headers)


def _reply(
    dialect: answer.Dialect[Any], body: wire.AnswerBody, began: float, writer: type[StreamWriter]
) -> Reply:
    encoder = partial(answer.Lines, dialect, body, began) if body.is_streamed else None
    whole = partial(answer.whole, dialect, body, began)
    return Reply(encoder, whole, writer, names=wire.endpoint_name)


async def _answer(
    http: Request, caller: Principal, request: GenerateRequest, reply: Reply, uses: Uses
) -> Response:
    gateway: Gateway = http.app.state.gateway
    request = replace(request, model=known(gateway, request.model), owner=caller.id)
    return await respond(http, gateway.start(request, uses=uses), reply, {})


async def _load(
    http: Request, caller: Principal, body: wire.AnswerBody, dialect: answer.Dialect[Any], uses: Uses
) -> Response:
    """Answer a body without a prompt, which asks for the model to be loaded, or with `keep_alive: 0` to be
    unloaded. Any caller may ask for the first: a prompt would load it, too.
    """
    gateway: Gateway = http.app.state.gateway
    pool: Pool | None = http.app.state.pool
    id = known(gateway, body.model)
    check_model(caller, id, None)
    headers = with_named({}, gateway.left_out(uses, id))
    id = gateway.router.first(id).info.id  # of a created model: what it is made of
    reason: answer.DoneReason = "unload" if body.keep_alive_s == 0 else "load"
    if pool is not None and pool.find(id) is not None:
        async with Until(receive=http.receive):
            if reason == "unload":
                await administrator(http)
                await pool.unload(id)
            else:
                await pool.load(id)
                pool.keep(id, body.keep_alive_s)
    return JSONResponse(answer.done(dialect, body.model, reason), headers=headers)


def _keep_loaded(http: Request, body: wire.ModelBody) -> None:
    """Set how long a model that runs here stays loaded after this request. Raises ModelNotFound,
    ProviderNotFound.
    """
    gateway: Gateway = http.app.state.gateway
    pool: Pool | None = http.app.state.pool
    id = known(gateway, body.model)
    if pool is not None:
        pool.keep(gateway.router.first(id).info.id, body.keep_alive_s)


async def _embedded(
    http: Request, caller: Principal, request: EmbedRequest, uses: Uses
) -> tuple[Embeddings | None, dict[str, str]]:
    """The embeddings, and headers about them; None if there is no text."""
    gateway: Gateway = http.app.state.gateway
    request = replace(request, model=known(gateway, request.model), owner=caller.id)
    if not any(request.inputs):
        return None, with_named({}, gateway.left_out(uses, request.model))
    async with Until(receive=http.receive):
        result = await gateway.embed(request, uses=uses)
    return result.value, with_named(target_headers(result.provider, result.attempts), result.ignored)
