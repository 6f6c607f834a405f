"""API keys: who is calling. Keys are compared in constant time and never logged."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from headrace.errors import Unauthorized


@dataclass(frozen=True, slots=True)
class Principal:
    """Whose request this is. `id` is a digest of the key, fit for logs and rows; all callers share one
    without keys.
    """

    id: str


ANONYMOUS = Principal("anonymous")


class Keys:
    def __init__(self, keys: tuple[str, ...]) -> None:
        self._keys = tuple(
            (key.encode(), Principal(hashlib.sha256(key.encode()).hexdigest()[:16])) for key in keys
        )

    def authenticate(self, authorization: str | None) -> Principal:
        """The caller behind an `Authorization: Bearer …` header. Raises Unauthorized. Without keys everybody
        may.
        """
        if not self._keys:
            return ANONYMOUS
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not given.strip():
            raise Unauthorized("no API key was given: send it as 'Authorization: Bearer KEY'")
        given_bytes = given.strip().encode("latin-1", "replace")  # as it came: headers are read as latin-1
        # every key is compared, so that time tells nothing about which one was near
        matches = [principal for key, principal in self._keys if hmac.compare_digest(key, given_bytes)]
        if not matches:
            raise Unauthorized("the API key is not valid")
        return matches[0]
