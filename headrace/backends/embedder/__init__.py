"""Embedding models and cross-encoders as backends: a model that is loaded at its first use, and a batcher
beside the engine.

backend → loading (fetch, compile; once) → tokenizer → batcher (texts of many requests in one forward pass)
"""

from headrace.backends.embedder.backend import CrossEncoderBackend, EmbedderBackend
from headrace.backends.embedder.served import EmbedderSettings

__all__ = ["CrossEncoderBackend", "EmbedderBackend", "EmbedderSettings"]
