"""Embedding models and cross-encoders as backends: a model that is loaded at its first use, and a batcher
beside the engine.

backend → base (fetch, compile; once) → tokenizer → batcher (texts of many requests in one forward pass)
"""

from headrace.backends.embedder.backend import CrossEncoderBackend, EmbedderBackend
from headrace.backends.embedder.base import EmbedderSettings

__all__ = ["CrossEncoderBackend", "EmbedderBackend", "EmbedderSettings"]
