"""Ollama: request (bodies of its API), backend (context length, connection), answer (reads its answers)."""

from headrace.backends.ollama.backend import OllamaBackend

__all__ = ["OllamaBackend"]
