"""Who sends a request, and what they may do."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one key; None: no limit. Tokens are those of prompts and answers together; `total_tokens`
    and `total_cost` (in the currency of the configured prices) are budgets for the key's whole life.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None
    total_tokens: int | None = None
    total_cost: float | None = None

    @property
    def count_tokens(self) -> bool:
        """Whether a request's tokens have to be known before it is admitted."""
        has_budget = self.total_tokens is not None or self.total_cost is not None
        return has_budget or self.tokens_per_minute is not None

    @property
    def exist(self) -> bool:
        return self != UNLIMITED


UNLIMITED = Limits()


@dataclass(frozen=True, slots=True)
class Principal:
    """The owner of a request. `id`: the id of a stored key, or a digest of a configured one, safe for logs
    and database rows; on a server without keys, all callers share one. `name`: that of the key, for people.
    `is_admin`: whether the key is an administrator's. `flow`: callers between whom the engine's time is
    shared: keys, or else addresses. `models`: those that may be used, `NAME*` stands for all that begin with
    NAME; empty: all. `may_hurry`: whether a request's `priority` may put it before those of others.
    """

    id: str
    is_admin: bool = False
    flow: str = ""
    models: tuple[str, ...] = ()
    limits: Limits = UNLIMITED
    may_hurry: bool = False
    name: str = ""

    def may_use(self, model: str) -> bool:
        return not self.models or any(
            model.startswith(name[:-1]) if name.endswith("*") else model == name for name in self.models
        )


ANONYMOUS = Principal("anonymous")

# The caller of the current request. The tasks that it starts inherit it.
CALLER: ContextVar[Principal] = ContextVar("caller", default=ANONYMOUS)


class Rates(Protocol):
    """The limits a minute of a caller's key."""

    def headers(self) -> Mapping[str, str]:
        """Response headers that say what the limits leave at this moment."""
        ...


# What the request has reserved of its caller's limits, the last one counts; None: no key has limits.
RATES: ContextVar[list[Rates] | None] = ContextVar("rates", default=None)
