"""Embedding models as a backend: a model that is loaded at its first use, and a batcher beside the engine.

backend → loading (fetch, compile; once) → tokenizer → batcher (texts of many requests in one forward pass)
"""

from headrace.backends.embedder.backend import EmbedderBackend, EmbedderSettings

__all__ = ["EmbedderBackend", "EmbedderSettings"]
