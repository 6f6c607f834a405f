"""All routes of the API, in the order in which they are matched."""

from __future__ import annotations

from headrace.api import (
    activations,
    admin,
    chat,
    completions,
    conversations,
    embeddings,
    health,
    messages,
    models,
    ollama,
    ollama_models,
    pages,
    pool,
    responses,
    saes,
    steering,
    tokens,
    vectors,
    websocket,
)

ROUTERS = tuple(
    resource.router
    for resource in (
        chat, completions, responses, admin, websocket, messages,
        conversations, embeddings, tokens,
        pool, models,  # `pool` before the routes of one model, whose ids may contain slashes
        ollama, ollama_models, saes, vectors, steering, activations, health, pages,
    )
)  # fmt: skip
