"""The limit of open files and sockets of this process."""

from __future__ import annotations

import contextlib

ENOUGH = 65_536  # more would slow down child processes that close all possible descriptors
WITHOUT_LIMIT = 8_192  # on systems without such a limit (Windows)


def raise_limit() -> int:
    """Raise the soft limit to the hard one, but not beyond ENOUGH. Returns the new limit."""
    try:
        import resource
    except ImportError:
        return WITHOUT_LIMIT
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # macOS may refuse its own hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return ENOUGH if soft == resource.RLIM_INFINITY else soft


def connections_within(descriptors: int) -> int:
    """The number of client connections that fit; a quarter of the descriptors, at least 64, is for the
    server's own files and connections.
    """
    return max(descriptors - max(64, descriptors // 4), 16)
