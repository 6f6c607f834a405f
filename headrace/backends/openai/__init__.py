"""Any provider that speaks OpenAI's dialect."""

from headrace.backends.openai.backend import OpenAIBackend

__all__ = ["OpenAIBackend"]
