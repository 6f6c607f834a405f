"""API keys and their owners. Keys are compared in constant time and never logged."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from headrace.errors import Unauthorized


@dataclass(frozen=True, slots=True)
class Principal:
    """The owner of a request. `id` is a digest of the API key, safe for logs and database rows. On a server
    without keys, all callers share one principal.
    """

    id: str


ANONYMOUS = Principal("anonymous")


class Keys:
    """The API keys that the server accepts; an empty tuple means that no key is needed."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._keys = tuple(
            (key.encode(), Principal(hashlib.sha256(key.encode()).hexdigest()[:16])) for key in keys
        )

    def authenticate(self, authorization: str | None) -> Principal:
        """The owner of the key in an `Authorization: Bearer …` header. Raises Unauthorized."""
        if not self._keys:
            return ANONYMOUS
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Unauthorized("no API key was given: send it as 'Authorization: Bearer KEY'")
        token_bytes = token.strip().encode("latin-1", "replace")  # starlette decodes headers as latin-1
        # comparing with every key makes the time independent of which key matches
        matches = [principal for key, principal in self._keys if hmac.compare_digest(key, token_bytes)]
        if not matches:
            raise Unauthorized("the API key is not valid")
        return matches[0]
