"""GGUF files, served by llama.cpp's own server in a child process.

child (the server's process), process (starts and stops it), dialect (writes its requests), choices (several
answers at once), forms (structured output), running (a process with its clients), backend (all together).
"""

from headrace.backends.llamacpp.backend import LlamaCppBackend
from headrace.backends.llamacpp.process import is_installed
from headrace.backends.llamacpp.running import slots

__all__ = ["LlamaCppBackend", "is_installed", "slots"]
