"""Who sends a request: the keys of the configuration, and those of the store (`headrace keys`). Who may use
the admin API: administrators, by a key of `server.admin_keys`; where callers need no key, those on the same
machine.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Annotated

from fastapi import Depends, Request
from starlette.requests import HTTPConnection
from starlette.types import Scope

from headrace.callers import ANONYMOUS, CALLER, Principal
from headrace.config import ServerConfig, is_loopback
from headrace.errors import Forbidden, StoreUnavailable, Unauthorized
from headrace.store import Store, StoredKey

# Reverse proxies add these. Through one, every caller seems to be on this machine.
FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")
AUTHENTICATED = "headrace.caller"  # key of a request's scope: the principal, once it is known
FIRST = "headrace.headers"  # ... and the first header of each name
FRESH_S = 5.0  # how long a key that was read is believed: others may have revoked it meanwhile
STALE_S = 600.0  # ... and while the database is down
MAX_KNOWN = 10_000  # keys that are remembered
NETWORK = 64  # bits of an IPv6 address that are one caller's: the rest is his to choose


def first_headers(scope: Scope) -> dict[bytes, bytes]:
    """The first header of each name; the names are in lower case. Starlette's own headers search the whole
    list with several calls for each.
    """
    headers: dict[bytes, bytes] | None = scope.get(FIRST)
    if headers is None:
        headers = scope[FIRST] = dict(reversed(scope["headers"]))
    return headers


class Keys:
    """The keys that are accepted; without any, none is needed. `stored`: those of the store; None: those do
    not count.
    """

    def __init__(self, server: ServerConfig, stored: StoredKeys | None = None) -> None:
        self._needs_key, self._stored = server.needs_key, stored
        self._keys = _configured(server)

    async def authenticate(self, authorization: str | None, address: str | None) -> Principal:
        """The owner of the key in an `Authorization: Bearer …` header, sent from an address. Raises
        Unauthorized, StoreUnavailable.
        """
        if not self._needs_key:
            return Principal(
                ANONYMOUS.id, flow=_flow(address) if address and ":" in address else address or ""
            )
        scheme, _, token = (authorization or "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise Unauthorized("no API key was given: send it as 'Authorization: Bearer KEY'")
        token_bytes = token.encode("latin-1", "replace")  # starlette decodes headers as latin-1
        # comparing with every key makes the time independent of which key matches
        matches = [principal for key, principal in self._keys if hmac.compare_digest(key, token_bytes)]
        if matches:
            return matches[0]
        if self._stored is None:
            raise Unauthorized("the API key is not valid")
        return await self._stored.owner(token)


class ParentKeys(Keys):
    """The keys of an engine process, which only its parent knows: the secret, and for whom the parent asks,
    as SECRET.OWNER.FLOW.HURRY. Keys of the parent's own begin alike, without the rest.
    """

    async def authenticate(self, authorization: str | None, address: str | None) -> Principal:
        scheme, _, token = (authorization or "").partition(" ")
        secret, *caller = token.strip().split(".")
        principal = await super().authenticate(f"{scheme} {secret}", address)
        if len(caller) != 3:
            return principal
        owner, flow, hurry = caller
        return Principal(owner, flow=flow, may_hurry=hurry == "1")


@dataclass(frozen=True, slots=True)
class _Known:
    """A stored key. `at`: when it was read, in seconds, monotonic."""

    key: StoredKey
    principal: Principal
    at: float


class StoredKeys:
    """The keys of the store, the last ones of which are remembered for some seconds. While the database is
    down, a key that is known goes on working. `now`: seconds, monotonic.
    """

    def __init__(self, store: Store, now: Callable[[], float] = time.monotonic) -> None:
        self._store, self._now = store, now
        self._known: OrderedDict[str, _Known] = OrderedDict()  # digest → key
        self._refreshing: set[str] = set()  # digests of known keys that are being read again

    async def owner(self, secret: str) -> Principal:
        """The owner of the key. Raises Unauthorized, StoreUnavailable."""
        from headrace.store.keys import SECRET, digest_of  # SQLAlchemy is loaded when the store starts

        if not SECRET.fullmatch(secret):
            raise Unauthorized("the API key is not valid")
        digest = digest_of(secret)
        known = self._known.get(digest)
        if known is None:
            known = await self._read(secret, digest, known)
        elif self._now() - known.at > FRESH_S and digest not in self._refreshing:
            self._refreshing.add(digest)  # one request reads it; meanwhile the others use what is known
            try:
                known = await self._read(secret, digest, known)
            finally:
                self._refreshing.discard(digest)
        if known.key.revoked_at is not None:
            raise Unauthorized("the API key has been revoked")
        if not known.key.is_valid(time.time()):
            raise Unauthorized("the API key has expired")
        return known.principal

    def forget(self) -> None:
        """Read every key again before it is used: one has been changed."""
        self._known.clear()

    async def _read(self, secret: str, digest: str, known: _Known | None) -> _Known:
        try:
            key = await self._store.keys.find(secret)
        except StoreUnavailable:
            if known is None or self._now() - known.at > STALE_S:
                raise
            return known
        if key is None:
            self._known.pop(digest, None)
            raise Unauthorized("the API key is not valid")
        principal = Principal(
            key.id, flow=key.id, models=key.models, limits=key.limits, may_hurry=key.may_hurry, name=key.name
        )
        fresh = self._known[digest] = _Known(key, principal, self._now())
        self._known.move_to_end(digest)
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        return fresh


async def authenticate(request: HTTPConnection) -> Principal:
    """The owner of the API key in `Authorization` or `x-api-key`, who is the current caller from now on.
    Raises Unauthorized, StoreUnavailable.
    """
    if AUTHENTICATED not in request.scope:
        keys: Keys = request.app.state.keys
        headers = first_headers(request.scope)
        header: str | None
        if (key := headers.get(b"x-api-key")) is not None:
            header = f"Bearer {key.decode('latin-1')}"
        else:
            value = headers.get(b"authorization")
            header = None if value is None else value.decode("latin-1")
        address = request.client.host if request.client is not None else None
        caller = request.scope[AUTHENTICATED] = await keys.authenticate(header, address)
        CALLER.set(caller)
    principal: Principal = request.scope[AUTHENTICATED]
    return principal


def names(server: ServerConfig) -> dict[str, str]:
    """The names of the configuration's keys, by the ids of their owners."""
    return {principal.id: principal.name for _, principal in _configured(server)}


def _configured(server: ServerConfig) -> Sequence[tuple[bytes, Principal]]:
    """The keys of the configuration with their owners. A key that is in both lists is an administrator's."""
    named = {key: (f"API key {number}", False) for number, key in enumerate(server.api_keys, 1)}
    named |= {key: (f"admin key {number}", True) for number, key in enumerate(server.admin_keys, 1)}
    owners = []
    for key, (name, is_admin) in named.items():
        id = hashlib.sha256(key.encode()).hexdigest()[:16]
        owners.append((key.encode(), Principal(id, is_admin, flow=id, may_hurry=is_admin, name=name)))
    return owners


def _flow(address: str) -> str:
    """The name of the callers at an IPv6 address."""
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:  # on a socket of both families
        return str(ip.ipv4_mapped)
    return str(ip_network((ip, NETWORK), strict=False))


async def administrator(http: Request) -> Principal:
    """The caller, if it may administer this server. Raises Unauthorized, Forbidden."""
    caller = await authenticate(http)
    server: ServerConfig = http.app.state.config.server
    if not caller.is_admin and (server.needs_key or not is_local(http, server)):
        raise Forbidden(
            "this needs the key of an administrator"
            if server.admin_keys
            else "no administrator has a key here: set server.admin_keys",
            code="admin_key_required",
        )
    return caller


def is_local(http: HTTPConnection, server: ServerConfig) -> bool:
    """Whether the server listens on loopback only, and no proxy has forwarded the request."""
    is_forwarded = any(name in http.headers for name in FORWARDED)
    is_near = http.client is not None and is_loopback(http.client.host)
    return is_near and is_loopback(server.host) and not is_forwarded


Admin = Annotated[Principal, Depends(administrator)]
