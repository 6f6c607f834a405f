"""All routes of the API, in the order in which they are matched."""

from __future__ import annotations

from headrace.api import (
    activations,
    chat,
    completions,
    conversations,
    embeddings,
    health,
    keys,
    messages,
    models,
    ollama,
    ollama_models,
    pages,
    pool,
    replicas,
    responses,
    running,
    saes,
    steering,
    stored_completions,
    tokens,
    usage,
    vectors,
    websocket,
)

ROUTERS = tuple(
    resource.router
    for resource in (
        chat, stored_completions, completions, responses, running, replicas, websocket, messages,
        conversations, embeddings, tokens,
        pool, models,  # `pool` before the routes of one model, whose ids may contain slashes
        ollama, ollama_models, keys, usage, saes, vectors, steering, activations, health, pages,
    )
)  # fmt: skip
