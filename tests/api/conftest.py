"""The servers of tests with scripted providers."""

from tests.api.relays import relay, shared

__all__ = ["relay", "shared"]
