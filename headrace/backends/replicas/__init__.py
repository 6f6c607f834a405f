"""Several servers with the same models, under one provider's name: docs/replicas.md."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from headrace.backends.openai import OpenAIBackend
from headrace.backends.replicas.backend import Replicas
from headrace.backends.replicas.replica import Replica
from headrace.backends.replicas.supervision import program
from headrace.backends.vllm import VLLMBackend
from headrace.breaker import Breaker
from headrace.config import ProviderConfig

__all__ = ["Replica", "Replicas", "replicated", "started"]

Make = Callable[[str, ProviderConfig, str | None], OpenAIBackend]


def replicated(name: str, provider: ProviderConfig, make: Make) -> Replicas:
    """The backend of a provider with `replicas`. `make`: builds the backend of one of them."""
    members = []
    for url in provider.replicas:
        one = provider.model_copy(update={"base_url": url, "replicas": ()})
        members.append(Replica(url, make(name, one, provider.api_key), Breaker(time.monotonic)))
    return Replicas(name, members, resumes=provider.resume == "same-model")


def started(name: str, provider: ProviderConfig, kind: type[VLLMBackend]) -> Replicas:
    """The backend of a provider with `python`: one replica, a process of ours."""
    assert provider.python is not None, "the configuration was checked"
    key = provider.api_key or secrets.token_hex(24)
    replica = Replica(name, kind(name, provider, key), Breaker(time.monotonic))
    replica.was_ready = False
    process = program(name, provider.python, kind.module, provider.args, key)
    return Replicas(name, [replica], {replica: process})
