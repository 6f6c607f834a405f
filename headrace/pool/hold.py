"""What keeps a model where it is: a lock until it is released, or a lease until its time is over."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.errors import ModelLeased, ModelLocked

MAX_LEASE_S = 7200


@dataclass(frozen=True, slots=True)
class Hold:
    """`until`: on the pool's clock, in seconds; None: a lock, which has no end."""

    holder: str
    reason: str = ""
    until: float | None = None

    @property
    def is_lease(self) -> bool:
        return self.until is not None

    def is_over(self, now: float) -> bool:
        return self.until is not None and self.until <= now

    def refusal(self, id: str, now: float) -> ModelLocked:
        """The error for everybody but the holder."""
        why = f": {self.reason}" if self.reason else ""
        if self.until is None:
            return ModelLocked(f"{id} is locked by {self.holder}{why}", param="model")
        left_s = max(1, round(self.until - now))
        error = ModelLeased(f"{id} is leased to {self.holder} for {left_s} s{why}", param="model")
        error.headers = {"Retry-After": str(left_s)}
        return error
