"""The lifetime of one request: what may end it early, and what it has cost when it is over."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from headrace import logs
from headrace.callers import CALLER
from headrace.errors import ClientGone, Overloaded, ServerError, Stopped, TimedOut
from headrace.types import FinishReason, Started, Usage

log = logging.getLogger(__name__)

INTERRUPT_S = 2.0  # how long interrupted requests have to send their callers the error

End = asyncio.Future[ServerError]  # an early end of a request: done when it has come
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]  # ASGI's


def interrupt(end: End, error: ServerError) -> None:
    """End a request with this error. The first error counts."""
    if not end.done():
        end.set_result(error)


def interrupt_after(
    end: End, server_s: float, caller_s: float, *, passed_s: float = 0.0
) -> asyncio.TimerHandle | None:
    """End a request when the server's limit or the caller's `timeout`, whichever is shorter, is over;
    `passed_s` of it have passed already. 0: no limit. Returns the timer, if one is running.
    """
    if not (server_s or caller_s):
        return None
    is_callers = bool(caller_s) and not 0 < server_s <= caller_s
    limit_s = caller_s if is_callers else server_s
    param = "timeout" if is_callers else None
    if passed_s < limit_s:
        return asyncio.get_running_loop().call_later(limit_s - passed_s, _time_out, end, limit_s, param)
    _time_out(end, limit_s, param)
    return None


def _time_out(end: End, limit_s: float, param: str | None) -> None:
    interrupt(end, TimedOut(f"the request took longer than {limit_s:g} s", param=param))


class Running(NamedTuple):
    """An admitted request. `tally`: None for those that generate and embed nothing."""

    id: str
    tally: Tally | None


class Active:
    """The requests that are admitted and not yet closed. `timeout_s`: the time limit of each; 0: none."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.is_draining = False
        self.requests: dict[End, Running] = {}
        self.idle = asyncio.Event()  # set when the last one is closed

    async def drain(self, timeout_s: float) -> None:
        """Refuse new requests, wait `timeout_s` for those that run, then interrupt the rest."""
        self.is_draining = True
        if await self._wait_idle(timeout_s):
            return
        for end in tuple(self.requests):
            interrupt(end, Overloaded("the server is shutting down"))
        await self._wait_idle(INTERRUPT_S)

    def stop(self, id: str) -> bool:
        """End the requests with this id; whether there was one."""
        ends = [end for end, running in self.requests.items() if running.id == id]
        for end in ends:
            interrupt(end, Stopped("an administrator stopped this request"))
        return bool(ends)

    async def _wait_idle(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                while self.requests:
                    self.idle.clear()
                    await self.idle.wait()
        except TimeoutError:
            return False
        return True


@dataclass(slots=True)
class Admission:
    """Counts a request as active while the body of a `with` runs. Entering returns the future that is done
    when the server's time limit or the request's own, whichever is shorter, has passed. Raises Overloaded.
    """

    _active: Active
    _timeout_s: float | None = None
    _tally: Tally | None = None
    _end: End = field(init=False)
    _timer: asyncio.TimerHandle | None = field(default=None, init=False)

    def __enter__(self) -> End:
        if self._active.is_draining:
            raise Overloaded("the server is shutting down", retry_after_s=5)
        self._end = asyncio.get_running_loop().create_future()
        self._active.requests[self._end] = Running(logs.REQUEST_ID.get(), self._tally)
        if self._active.timeout_s or self._timeout_s:
            self._timer = interrupt_after(self._end, self._active.timeout_s, self._timeout_s or 0)
        return self._end

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._active.requests.pop(self._end, None)
        if not self._active.requests:
            self._active.idle.set()


class Until:
    """Runs the body of an `async with` until one of `ends` is done or, with `receive`, until the caller hangs
    up. The body is cancelled then, and when it has ended, the error in that future, or ClientGone, is raised;
    if several are done, that of the first one in `ends`. Tasks among `ends` are cancelled after the body.

    It is the only race between work and whatever may end it early. The body runs in the caller's own task, so
    nothing is left to be awaited or closed afterwards.
    """

    def __init__(self, *ends: End, receive: Receive | None = None) -> None:
        self._ends, self._receive = ends, receive
        self._task: asyncio.Task[object] | None = None
        self._has_cancelled = False

    async def __aenter__(self) -> None:
        self._task = asyncio.current_task()
        if self._receive is not None:  # a server that only computes an answer does not notice by itself
            self._ends = (*self._ends, asyncio.ensure_future(_hang_up(self._receive)))
        for end in self._ends:
            end.add_done_callback(self._cancel)

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, _: object) -> None:
        for end in self._ends:
            end.remove_done_callback(self._cancel)
            if isinstance(end, asyncio.Task):
                end.cancel()
        # a callback that is already scheduled still runs: without a task it cancels nothing
        task, self._task = self._task, None
        if not self._has_cancelled or task is None:
            return
        # if the task was cancelled from elsewhere as well, it stays cancelled
        is_ours_alone = task.uncancel() == 0
        if is_ours_alone and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise next(end.result() for end in self._ends if _has_come(end)) from exc

    def _cancel(self, end: End) -> None:
        if not self._has_cancelled and self._task is not None and _has_come(end):
            self._has_cancelled = True
            self._task.cancel()


def _has_come(end: End) -> bool:
    return end.done() and not end.cancelled()


async def _hang_up(receive: Receive) -> ServerError:
    """Wait until the client closes the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
    return hung_up()


def hung_up() -> ServerError:
    return ClientGone("the client closed the connection")


@dataclass(slots=True)
class SteeringTally:
    """How a request was steered and probed. `profile`: the steering profile that applied, None: none, though
    it may be steered; `doses`: the relative dose of each finished choice that has one; `tokens`: steered ones
    of those; `probed`: tokens that were read.
    """

    is_steered: bool = False
    profile: str | None = None
    doses: list[float] = field(default_factory=list)
    tokens: int = 0
    probed: int = 0


@dataclass(slots=True)
class Tally:
    """One request's cost and result.

    `work`: the endpoint of a request that is passed on, else "generate" or "embed". `owner` and `owner_name`:
    the principal's id and name; `model`: as requested; `served`: the id of the model that answered.
    `is_streamed`: None where the gateway does not know it. `status` and `code`: of the error that ended the
    request, else 200 and None. `took_s`: from the request's arrival to its end. `started`: of its first
    choice, `reasons` and `decode_s`: of its finished choices, where the backend reports them. `num_choices`:
    its `n`, 0 for what has no choices; `max_tokens`: of each choice; `longest`: tokens of the longest.
    """

    work: str
    model: str
    owner: str | None = None
    is_streamed: bool | None = None
    served: str | None = None
    provider: str | None = None
    attempts: int = 0
    status: int = 200
    code: str | None = None
    took_s: float = 0.0
    usage: Usage | None = None  # None: the provider reported none
    assumed: Usage | None = None  # ... and what the key's limits count instead
    started: Started | None = None
    reasons: list[FinishReason] = field(default_factory=list)
    decode_s: list[float] = field(default_factory=list)
    steering: SteeringTally | None = None  # None: neither steered nor probed
    num_choices: int = 0
    max_tokens: int | None = None
    longest: int = 0
    owner_name: str = field(default_factory=lambda: CALLER.get().name, init=False)
    arrived: float = field(default_factory=time.perf_counter, init=False)  # on the clock `perf_counter`
    began: float | None = None  # when the answer began, on the same clock; None: there was none
    first_byte_s: float | None = field(default=None, init=False)  # from arrival; None: there was no answer

    def end(self, error: BaseException | None = None) -> None:
        """Record the duration, and the error that ended the request, if any. A cancellation counts as a
        caller who left.
        """
        self.took_s = time.perf_counter() - self.arrived
        self.first_byte_s = None if self.began is None else self.began - self.arrived
        if isinstance(error, asyncio.CancelledError):
            error = ClientGone("")
        if isinstance(error, ServerError):
            self.status, self.code = error.status, error.code
        elif error is not None:
            self.status, self.code = 500, None


class Meter(Protocol):
    """Receives the tally of every request, once, when the request is over."""

    def record(self, tally: Tally) -> None: ...


class Metered:
    """Reports a request to the meter when the body of a `with` ends, with its error if it raises one."""

    def __init__(self, meter: Meter, tally: Tally) -> None:
        self._meter, self._tally = meter, tally

    def __enter__(self) -> Tally:
        return self._tally

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, _: object) -> None:
        self._tally.end(exc)
        self._meter.record(self._tally)


@dataclass(frozen=True, slots=True)
class LoggingMeter:
    """Logs every tally at debug level, adds it to the facts of its request, and passes it to other meters."""

    others: Sequence[Meter] = ()

    def record(self, tally: Tally) -> None:
        for meter in self.others:
            meter.record(tally)
        facts = logs.FACTS.get()
        if facts is not None:
            facts.update(_facts(tally))
        if log.isEnabledFor(logging.DEBUG):
            log.debug(
                "work=%s model=%s provider=%s attempts=%d stream=%s status=%d code=%s usage=%s "
                "first_byte_s=%s took_s=%.4f",
                tally.work, tally.model, tally.provider, tally.attempts, tally.is_streamed, tally.status,
                tally.code, tally.usage, tally.first_byte_s, tally.took_s,
            )  # fmt: skip


def _facts(tally: Tally) -> dict[str, object]:
    """What the access log says of a request beside its path and status: no content."""
    facts: dict[str, object] = {
        "key": tally.owner,
        "key_name": tally.owner_name or None,
        "model": tally.model,
        "backend": tally.provider,
        "attempts": tally.attempts,
        "code": tally.code,
        "first_byte_ms": None if tally.first_byte_s is None else round(tally.first_byte_s * 1000, 1),
    }
    if tally.started is not None:
        facts["queue_ms"] = round(tally.started.queue_s * 1000, 1)
        facts["prefill_ms"] = round(tally.started.prefill_s * 1000, 1)
    if tally.usage is not None:
        facts["prompt_tokens"] = tally.usage.prompt_tokens
        facts["completion_tokens"] = tally.usage.completion_tokens
        facts["cached_tokens"] = tally.usage.cached_tokens
    return {name: value for name, value in facts.items() if value is not None}
