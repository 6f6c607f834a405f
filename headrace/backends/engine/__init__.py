"""Our own engine as a backend: requests in, events out.

backend → preparation (prompt: token ids; rules: constraints on the answer) → places → thread (steps the
engine) → stream → choice (tokens to events).
"""

from headrace.backends.engine.backend import EngineBackend
from headrace.backends.engine.preparation import EngineSettings

__all__ = ["EngineBackend", "EngineSettings"]
