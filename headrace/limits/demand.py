"""What a request may use, what it is granted, and the error if it is not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from headrace.callers import Limits, Principal
from headrace.errors import RateLimited

WINDOW_S = 60  # of the limits a minute: of any so many seconds
BILLION = 10**9  # costs are whole numbers of billionths

# The limit that a request meets. "size": it is larger than the limit a minute, and no waiting helps.
Reason = Literal["requests", "tokens", "size", "concurrent", "total_tokens", "total_cost"]


# These two are not frozen: they are created for each request, which takes longer for a frozen object.


@dataclass(slots=True)
class Demand:
    """The tokens that a request may use: `prompt`, and for its answers between `least` and `most`; where they
    differ, the caller has set no limit, and gets what is left. Prices are in billionths a token.
    """

    prompt: int = 0
    least: int = 0
    most: int = 0
    prompt_price: int = 0
    answer_price: int = 0

    def cost(self, answer: int) -> int:
        return self.prompt * self.prompt_price + answer * self.answer_price


@dataclass(slots=True)
class State:
    """A key's limits a minute as they stand: what is left, and the seconds until all of it is free again.
    `retry_s`: seconds until the request that was refused may be granted.
    """

    requests_left: int = 0
    tokens_left: int = 0
    requests_reset_s: float = 0.0
    tokens_reset_s: float = 0.0
    retry_s: float = 0.0

    def headers(self, limits: Limits) -> dict[str, str]:
        """Response headers in OpenAI's manner, of the limits that there are."""
        headers = {}
        for kind, limit, left, reset_s in (
            ("requests", limits.requests_per_minute, self.requests_left, self.requests_reset_s),
            ("tokens", limits.tokens_per_minute, self.tokens_left, self.tokens_reset_s),
        ):
            if limit is not None:
                headers[f"x-ratelimit-limit-{kind}"] = str(limit)
                headers[f"x-ratelimit-remaining-{kind}"] = str(max(0, left))
                headers[f"x-ratelimit-reset-{kind}"] = _written(reset_s)
        return headers


class Reservation(Protocol):
    """What a request was granted. Its holder settles it, once."""

    answer: int  # tokens for the answers

    def headers(self) -> Mapping[str, str]:
        """Response headers that say what the key's limits leave at this moment."""
        ...

    async def settle(self, tokens: int, cost: int) -> None:
        """Replace what was reserved by what was used."""
        ...


class Limiter(Protocol):
    async def reserve(self, caller: Principal, demand: Demand) -> Reservation:
        """Reserve what a request may use of its key's limits. Raises RateLimited; Overloaded if the limits
        cannot be checked now.
        """
        ...

    async def aclose(self) -> None: ...


def refusal(reason: Reason, limits: Limits, demand: Demand, state: State) -> RateLimited:
    """The error for a request that meets a limit."""
    needed = demand.prompt + demand.least
    used = (limits.tokens_per_minute or 0) - state.tokens_left
    texts = {
        "requests": f"this API key may send {limits.requests_per_minute} requests a minute",
        "tokens": f"this API key may use {limits.tokens_per_minute} tokens a minute; {used} are used or "
        f"reserved, and this request may need {needed}",
        "size": f"this request may need {needed} tokens, and this API key may use "
        f"{limits.tokens_per_minute} a minute: shorten it, or set max_tokens lower",
        "concurrent": f"this API key may have {limits.concurrent_requests} requests at once",
        "total_tokens": f"this API key's budget of {limits.total_tokens} tokens does not suffice",
        "total_cost": f"this API key's budget of {limits.total_cost} does not suffice",
    }
    headers = state.headers(limits)
    if reason in ("requests", "tokens", "concurrent"):
        headers["Retry-After"] = str(max(1, math.ceil(state.retry_s)))
    else:
        headers["x-should-retry"] = "false"
    error = RateLimited(texts[reason], headers=headers)
    if reason in ("total_tokens", "total_cost"):
        error.code = "insufficient_quota"
    return error


def _written(seconds: float) -> str:
    """A duration as OpenAI writes it: 250ms, 12.5s, 1m0s."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, tenths = divmod(math.ceil(seconds * 10), 600)
    return f"{minutes}m{tenths / 10:g}s" if minutes else f"{tenths / 10:g}s"
