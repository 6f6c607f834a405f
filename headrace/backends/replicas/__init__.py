"""Several servers with the same models, under one provider's name: docs/replicas.md."""

from __future__ import annotations

import time
from collections.abc import Callable

from headrace.backends.openai import OpenAIBackend
from headrace.backends.replicas.backend import Replicas
from headrace.backends.replicas.replica import Replica
from headrace.breaker import Breaker
from headrace.config import ProviderConfig

__all__ = ["Replica", "Replicas", "replicated"]

Make = Callable[[str, ProviderConfig, str | None], OpenAIBackend]


def replicated(name: str, provider: ProviderConfig, make: Make) -> Replicas:
    """The backend of a provider with `replicas`. `make`: builds the backend of one of them."""
    members = []
    for url in provider.replicas:
        one = provider.model_copy(update={"base_url": url, "replicas": ()})
        members.append(Replica(url, make(name, one, provider.api_key), Breaker(time.monotonic)))
    return Replicas(name, members)
