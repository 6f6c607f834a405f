"""Our own engine as a backend: prompts in, events out.

backend → prompt (what the model reads) → rules (what the answer must look like) → thread (the engine's) →
stream → choice (tokens to events).
"""

from headrace.backends.engine.backend import EngineBackend
from headrace.backends.engine.settings import EngineSettings

__all__ = ["EngineBackend", "EngineSettings"]
