"""How many files and sockets this process may have open."""

from __future__ import annotations

import contextlib

ENOUGH = 65_536  # some programs that are started from here walk through all that they may have
WITHOUT_LIMIT = 8_192  # where the system tells none (Windows)


def raise_limit() -> int:
    """Raises the soft limit to the hard one, as far as that is allowed and useful. Returns the limit."""
    try:
        import resource
    except ImportError:
        return WITHOUT_LIMIT
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # macOS refuses more than it has, whatever `hard` says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return ENOUGH if soft == resource.RLIM_INFINITY else soft


def connections_within(descriptors: int) -> int:
    """How many connections of callers fit, beside what the server opens itself: a quarter, at least 64."""
    return max(descriptors - max(64, descriptors // 4), 16)
