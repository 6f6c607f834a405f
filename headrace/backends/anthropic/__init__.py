"""Anthropic's Messages API as a backend: a neutral request to its JSON, its event stream to neutral events.

backend → request (messages, tools, thinking, formats) → upstream (its errors) → answer (its events).
"""

from headrace.backends.anthropic.backend import AnthropicBackend

__all__ = ["AnthropicBackend"]
