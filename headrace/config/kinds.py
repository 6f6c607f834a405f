"""The kinds of providers. A new kind is registered here, and nowhere else."""

from __future__ import annotations

from importlib import import_module
from typing import Any

# kind → module:class, called with (name, ProviderConfig, key)
REMOTE = {
    "openai": "headrace.backends.openai:OpenAIBackend",
    "cerebras": "headrace.backends.cerebras:CerebrasBackend",
    "anthropic": "headrace.backends.anthropic:AnthropicBackend",
    "ollama": "headrace.backends.ollama:OllamaBackend",
}
LOCAL = ("llamacpp", "fake")  # run in this process or as its child, and are built by the app


def load_kind(entry: str) -> Any:
    """The class that an entry of REMOTE names."""
    module, _, name = entry.partition(":")
    return getattr(import_module(module), name)


def check_kind(kind: str) -> str:
    """Return the kind if there is one of this name. Raises ValueError."""
    if kind not in (*REMOTE, *LOCAL):
        raise ValueError(f"there is no such kind; known: {', '.join(map(repr, (*REMOTE, *LOCAL)))}")
    return kind
