"""GGUF files, served by llama.cpp's own server in a child process.

child (the server's process), process (starts and stops it, and talks to it), dialect (writes its requests),
choices (several answers at once), backend (all together).
"""

from headrace.backends.llamacpp.backend import LlamaCppBackend
from headrace.backends.llamacpp.process import is_installed, slots

__all__ = ["LlamaCppBackend", "is_installed", "slots"]
