"""GGUF files through llama.cpp's own server: child (the process that runs it) ← process (its life) ← dialect
(what it is asked) ← choices (several answers at once) ← backend; memory says how much of it there may be.
"""

from headrace.backends.llamacpp.backend import LlamaCppBackend
from headrace.backends.llamacpp.memory import slots
from headrace.backends.llamacpp.process import is_installed

__all__ = ["LlamaCppBackend", "is_installed", "slots"]
