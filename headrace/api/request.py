"""What handlers take from a request: who sends it, where it goes, and its body.

A body's media type, size and JSON are checked, and it becomes a validated model. Work on large bodies runs
off the event loop, and is abandoned when the caller leaves or its time is over. The memory of all bodies in
flight is bounded: a request beyond it is refused with 503, and may be sent again later. What idle WebSockets
remember counts, too, and is forgotten first.
"""

from __future__ import annotations

import asyncio
import codecs
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, TypeVar

from fastapi import Depends, Request, Response
from pydantic import BaseModel
from starlette.types import Receive

from headrace.api.authentication import authenticate, first_headers
from headrace.api.encodings import decoded
from headrace.api.errors import is_ollama
from headrace.callers import Principal
from headrace.errors import (
    ClientGone,
    Overloaded,
    PayloadTooLarge,
    ServerError,
    SteeringRefused,
    UnsupportedMedia,
)
from headrace.features import NONE
from headrace.free_memory import collect
from headrace.gateway.gateway import Gateway
from headrace.gateway.lifetime import End, Until, interrupt_after
from headrace.offload import SMALL, aside
from headrace.store import Store
from headrace.turns.steering import Steering
from headrace.wire.limits import checked_volume, shown
from headrace.wire.parameters import RequestBody, Table, parse, uses_of, with_named
from headrace.wire.steering import HEADER, SteeringMembers

Body = TypeVar("Body", bound=BaseModel)
T = TypeVar("T")
Steerable = TypeVar("Steerable", bound=SteeringMembers)
STEERING = HEADER.lower().encode()

# A refused body of up to this many times the limit is read to its end: some clients read no response before
# they have sent their whole request.
DRAINED = 4
JSON = re.compile(r"application/json|[\w.!#$&^-]+/[\w.!#$&^-]+\+json", re.ASCII)  # media types
FACTOR = 4  # bytes of memory for each byte of a body: raw, decoded, and as it is sent to a provider
CONTAINER = 1024  # bytes of memory for each JSON object or list, once it is parsed
VALUE = 64  # work of validating one value, in headrace.offload's bytes
TRIM_AFTER = 32 * 2**20  # released bytes after which free memory goes back to the system
TRIM_DELAY_S = 1.0  # after the last of them: not between the requests of a burst
# keys of a request's scope:
CHARGE = "headrace.charge"  # the memory that its body takes
SIZE = "headrace.body_size"  # the work that the body is, in headrace.offload's bytes, once it is read
READ_AT = "headrace.read_at"  # when the body was read, on the event loop's clock
TIMEOUT = "headrace.timeout_s"  # the body's own time limit, once it is validated
ALL_OURS: Table = {}  # for bodies whose declared members are all handled here
BOM = codecs.BOM_UTF8  # some clients write it before JSON
HANG_UP = "headrace.hang_up"  # our HTTP server's function that returns the future of a hang-up
BODY = "headrace.body"  # the body itself, if the relay has read it before the handler


def header_of(http: Request, name: bytes) -> str | None:
    """The first header of this name, which is in lower case."""
    value = first_headers(http.scope).get(name)
    return None if value is None else str(value, "latin-1")


def headers_of(http: Request, names: Iterable[str]) -> dict[str, str]:
    """The request headers with these names. Several lines of one header are one list (RFC 9110, 5.3)."""
    lines_by_name = {name: list(filter(None, http.headers.getlist(name))) for name in names}
    return {name: ", ".join(dict.fromkeys(lines)) for name, lines in lines_by_name.items() if lines}


async def _store(http: Request) -> Store:
    store: Store = http.app.state.store
    return store


Caller = Annotated[Principal, Depends(authenticate)]
Stored = Annotated[Store, Depends(_store)]


def destination(http: Request) -> tuple[Gateway, str | None]:
    """The gateway, and the provider that the path names (`/{provider}/v1/…`), or None."""
    return http.app.state.gateway, http.path_params.get("provider")


def is_strict(http: Request) -> bool:
    """Whether unknown members are refused: by the header X-Headrace-Strict, else by the configuration."""
    header = header_of(http, b"x-headrace-strict")
    if header is None:
        return bool(http.app.state.config.server.strict)
    return header.strip().lower() in ("true", "1")


async def steered(
    http: Request, caller: Principal, body: Steerable, *, has_choices: bool = False
) -> Steerable:
    """The body with its steering resolved: its own members, the header, the model's suffix, and defaults.
    `has_choices`: it may have n answers. Raises BadRequest, StoreUnavailable.
    """
    steering: Steering = http.app.state.steering
    header = header_of(http, STEERING) or None
    is_named = any(member is not None for member in (body.steering, body.profile, body.probe, header))
    if not (is_named or steering.profiles.has_defaults or "@" in getattr(body, "model", "")):
        return body  # nearly all requests
    return await steering.steered(
        caller.id, body, http.path_params.get("provider"), header, has_choices=has_choices
    )


def check_unsteered(http: Request, body: RequestBody | None = None) -> None:
    """Raise SteeringRefused for a request that names steering or probes where a model answers without them:
    what it says would look steered.
    """
    extra = (body and body.model_extra) or {}
    named = [name for name in ("steering", "profile", "probe") if extra.get(name) not in (None, False)]
    named += [HEADER] if header_of(http, STEERING) else []
    if named:
        raise SteeringRefused(
            f"{named[0]}: {http.url.path} has no steering; /v1/chat/completions has",
            code="steering_unsupported",
            param=named[0],
        )


def base_model(http: Request, model: str) -> str:
    """The model of `model@profile`, for work that profiles do not change, as counting tokens."""
    steering: Steering = http.app.state.steering
    return steering.split(model, http.path_params.get("provider"))[0]


async def name_ignored(http: Request, response: Response, body: RequestBody, table: Table = ALL_OURS) -> None:
    """Name the members without effect of a body that no backend gets in X-Headrace-Ignored. Raises BadRequest
    for unknown ones if the request is strict.
    """
    uses = await prepared(http, partial(uses_of, body, table, strict=is_strict(http)))
    response.headers.update(with_named(response.headers, uses.left_out(NONE)))


@dataclass(slots=True)
class Budget:
    """The memory of the server. `limit`: in bytes; 0: none. `released`: since memory last went back to the
    system. `forgettable`: functions that release memory which its owners can do without, oldest first.
    """

    limit: int
    used: int = 0
    released: int = 0
    forgettable: dict[int, Callable[[], None]] = field(default_factory=dict)
    _trim: asyncio.TimerHandle | None = None

    def has_room(self, size: int) -> bool:
        """Whether there are this many bytes, if need be once some owners have forgotten what they can."""
        while self.limit and self.used + size > self.limit and self.forgettable:
            oldest = next(iter(self.forgettable))
            self.forgettable.pop(oldest)()
        return not self.limit or self.used + size <= self.limit

    def trim_later(self) -> None:
        """Return free memory to the system once no more is released."""
        if self._trim is not None:
            self._trim.cancel()
        self._trim = asyncio.get_running_loop().call_later(TRIM_DELAY_S, self._trim_now)

    def _trim_now(self) -> None:
        self.released, self._trim = 0, None
        asyncio.get_running_loop().run_in_executor(None, collect)


@dataclass(slots=True)
class Charge:
    """The bytes that one request takes from a budget."""

    _budget: Budget
    _taken: int = 0

    def take(self, size: int) -> None:
        """Take more bytes. Raises Overloaded if there are not enough; then all bytes are released."""
        budget = self._budget
        if budget.limit and budget.used + size > budget.limit and not budget.has_room(size):
            self.release()
            raise Overloaded("the bodies of other requests take all memory there is for them")
        budget.used += size
        self._taken += size

    def release(self) -> None:
        """Give all bytes back to the budget. Idempotent."""
        self._budget.used -= self._taken
        self._budget.released += self._taken
        self._taken = 0

    def moved(self) -> Charge:
        """A new charge that takes over all bytes, for work that goes on after the request."""
        other = Charge(self._budget, self._taken)
        self._taken = 0
        return other


def json_body(kind: type[Body], *, is_optional: bool = False) -> Callable[[Request], Awaitable[Body]]:
    """A dependency that reads and validates the body. With `is_optional`, an empty body means {}."""

    async def read(request: Request) -> Body:
        raw = await read_json(request)
        body = await prepared(request, partial(parse, kind, b"{}" if is_optional and not raw else raw))
        if "timeout" in kind.model_fields:  # elsewhere it is a member of any type, named as ignored
            request.scope[TIMEOUT] = getattr(body, "timeout", None)
        return body

    return read


async def read_json(request: Request) -> bytes:
    """The body, decompressed. Raises UnsupportedMedia, PayloadTooLarge, ClientGone, Overloaded, and
    BadRequest if the compression is broken, or the body has more values than any body may have.
    """
    media_type = header_of(request, b"content-type")
    if media_type != "application/json":
        # Ollama looks at no type, and its callers (curl -d, fetch of a text) send others. Browsers always say
        # which page a body comes from.
        is_from_page = header_of(request, b"origin") is not None
        if is_from_page or not is_ollama(request.scope):
            _check_media_type(media_type, is_from_page=is_from_page)
    if BODY in request.scope:
        body: bytes = request.scope.pop(BODY)
        return body
    charge: Charge = request.scope[CHARGE]
    limit = request.app.state.config.server.max_body_bytes
    chunks = await _read(request.receive, limit, charge)
    request.scope[READ_AT] = asyncio.get_running_loop().time()
    request.scope[SIZE] = sum(map(len, chunks))
    raw = await prepared(request, partial(b"".join, chunks))
    if header_of(request, b"content-encoding") is not None:
        encodings, num_packed = ",".join(request.headers.getlist("content-encoding")), len(raw)
        async with in_time(request):
            raw = await decoded(raw, encodings, limit)
        charge.take(FACTOR * max(0, len(raw) - num_packed))
    raw = raw.removeprefix(BOM)
    request.scope[SIZE] = work_of(raw)
    if len(raw) > SMALL:
        volume = await prepared(request, partial(checked_volume, raw))
        charge.take(CONTAINER * volume.containers)
    return raw


def work_of(raw: bytes) -> int:
    """An estimate of what validating a body takes, in headrace.offload's bytes."""
    return len(raw) + VALUE * raw.count(b",")


async def prepared(request: Request, work: Callable[[], T]) -> T:
    """Run work on the body, off the event loop if the body is large. Raises ClientGone, TimedOut."""
    size: int = request.scope[SIZE]
    if size <= SMALL:
        return work()
    async with in_time(request):
        return await aside(size, work)


@asynccontextmanager
async def in_time(request: Request) -> AsyncIterator[None]:
    """Run the body until it ends, the caller hangs up, or the server's or the caller's time limit has passed
    since the request was read. From its start on, the gateway watches a request's time. Raises ClientGone,
    TimedOut.
    """
    loop = asyncio.get_running_loop()
    end: End = loop.create_future()
    server_s, now = request.app.state.config.server.request_timeout_s, loop.time()
    passed_s = now - request.scope.get(READ_AT, now)
    caller_s = request.scope.get(TIMEOUT) or 0
    timer = interrupt_after(end, server_s, caller_s, passed_s=passed_s) if server_s or caller_s else None
    if end.done():
        raise end.result()
    try:
        async with Until(end, receive=request.receive):
            yield
    finally:
        if timer is not None:
            timer.cancel()


def _check_media_type(header: str | None, *, is_from_page: bool) -> None:
    """Raise UnsupportedMedia for anything but JSON. Browsers let every page send bodies without a type, or
    as text; before JSON from another site, they ask the server.
    """
    if not header and is_from_page:
        raise UnsupportedMedia("Content-Type is missing; it must be application/json", param="Content-Type")
    media_type = (header or "application/json").partition(";")[0].strip().lower()
    if not JSON.fullmatch(media_type):
        raise UnsupportedMedia(
            f"Content-Type is {shown(media_type)}; it must be application/json", param="Content-Type"
        )


async def _read(receive: Receive, limit: int, charge: Charge) -> list[bytes]:
    """Read the body in pieces, and charge it. A refused body is read to its end (see DRAINED) before the
    error is raised.
    """
    chunks: list[bytes] = []
    size, has_more = 0, True
    refusal: ServerError | None = None
    while has_more and size <= DRAINED * limit:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("the client closed the connection while it sent its request")
        chunk, has_more = message.get("body", b""), message.get("more_body", False)
        size += len(chunk)
        if refusal is None:
            try:
                if size > limit:
                    raise PayloadTooLarge(f"the body is larger than {limit} bytes", param="body")
                charge.take(FACTOR * len(chunk))
                chunks.append(chunk)
            except (PayloadTooLarge, Overloaded) as exc:
                refusal = exc
                chunks.clear()
    if refusal is not None:
        refusal.headers = {**refusal.headers, "Connection": "close"}
        raise refusal
    return chunks
