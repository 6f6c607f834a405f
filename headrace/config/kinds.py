"""The kinds of providers: those that come with Headrace, and those that installed packages add to them."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from headrace.errors import ConfigError

# kind → module:class, called with (name, ProviderConfig, key)
REMOTE = {
    "openai": "headrace.backends.openai:OpenAIBackend",
    "vllm": "headrace.backends.vllm:VLLMBackend",
    "sglang": "headrace.backends.vllm:SGLangBackend",
    "cerebras": "headrace.backends.cerebras:CerebrasBackend",
    "anthropic": "headrace.backends.anthropic:AnthropicBackend",
    "ollama": "headrace.backends.ollama:OllamaBackend",
}
LOCAL = ("llamacpp", "fake")  # run in this process or as its child, and are built by the app
GROUP = "headrace.providers"  # of entry points: kind = module:class


def installed() -> dict[str, EntryPoint]:
    """The kinds that other packages register. None of them replaces a kind that comes with Headrace."""
    entries = {entry.name: entry for entry in entry_points(group=GROUP)}
    return {kind: entry for kind, entry in entries.items() if kind not in (*REMOTE, *LOCAL)}


def load_kind(kind: str) -> Any:
    """The class of a kind that check_kind has let through and that is not LOCAL. Raises ConfigError for an
    installed package that is broken.
    """
    if kind not in REMOTE:
        entry = installed()[kind]
        try:
            return entry.load()
        except Exception as exc:
            raise ConfigError(f"providers of kind {kind!r} need {entry.value}, which fails: {exc!r}") from exc
    module, _, name = REMOTE[kind].partition(":")
    return getattr(import_module(module), name)


def check_kind(kind: str) -> str:
    """Return the kind if there is one of this name. Raises ValueError."""
    if kind not in (*REMOTE, *LOCAL):
        known = (*REMOTE, *LOCAL, *installed())
        if kind not in known:
            raise ValueError(f"there is no such kind; known: {', '.join(map(repr, known))}")
    return kind
