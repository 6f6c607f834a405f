"""Ollama: request (what it is sent) → backend (how much context, which address) → answer (what it says)."""

from headrace.backends.ollama.backend import OllamaBackend

__all__ = ["OllamaBackend"]
