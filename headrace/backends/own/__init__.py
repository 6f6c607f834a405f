"""Engine processes: Headrace's own server in a child process, which speaks OpenAI's dialect with the members
that only Headrace has.
"""

from headrace.backends.own.backend import OwnBackend

__all__ = ["OwnBackend"]
