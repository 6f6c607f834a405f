"""GGUF files through llama.cpp's own server: child (the process that runs it) ← process (its life) ← backend
(what it is asked, in OpenAI's dialect).
"""

from headrace.backends.llamacpp.backend import LlamaCppBackend

__all__ = ["LlamaCppBackend"]
