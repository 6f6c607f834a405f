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
    metrics,
    models,
    ollama,
    ollama_models,
    pages,
    pool,
    replicas,
    rerank,
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
        chat,
        stored_completions,
        completions,
        responses,
        running,
        replicas,
        websocket,
        messages,
        conversations,
        embeddings,
        rerank,
        tokens,
        pool,  # before the routes of one model, whose ids may contain slashes
        models,
        ollama,
        ollama_models,
        keys,
        usage,
        saes,
        vectors,
        steering,
        activations,
        health,
        metrics,
        pages,
    )
)
