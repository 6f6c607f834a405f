"""Fallback, retries, breakers and hedging, all before the first event."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import time
from random import Random

import pytest

from headrace.backends.fake import FakeBackend
from headrace.backends.refusals import Refusal, to_error, unreachable
from headrace.breaker import COOL_DOWN_S, MAX_FAILURES
from headrace.errors import (
    BadRequest,
    ContextTooLong,
    EngineFailed,
    Overloaded,
    ProviderError,
    ProviderKeyRefused,
    ProviderLimited,
    ProviderRefused,
    ProviderTimedOut,
    ProviderUnreachable,
    ServerError,
    TimedOut,
    UnsupportedParameter,
)
from headrace.features import Feature, Use, Uses
from headrace.gateway.attempts import retry_after_s
from headrace.types import Embeddings, EmbedRequest, Finished, TextDelta
from tests.gateway.gateways import Fickle, ManualClock, answer, ask, gateway, is_idle, route

DOWN = ProviderUnreachable("down")


def backend(name: str, refusal: ServerError | None = None, **members: float) -> FakeBackend:
    return FakeBackend([name], id="m", name=name, refusal=refusal, **members)  # type: ignore[arg-type]


FALLS_BACK = [
    DOWN,
    ProviderTimedOut("late"),
    ProviderLimited("slower"),
    ProviderError("odd"),
    Overloaded("full"),
    EngineFailed("broken"),
]
STAYS = [
    ProviderRefused("bad"),
    ProviderKeyRefused("who?"),
    BadRequest("bad"),
    ContextTooLong("long"),
    TimedOut("too long"),
]


@pytest.mark.parametrize("error", FALLS_BACK, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("after_opening", [True, False])
def test_failure_before_the_first_event_leads_to_the_next_target(
    error: ServerError, after_opening: bool
) -> None:
    async def run() -> None:
        first, second = backend("a"), backend("b")
        if after_opening:
            first.script, first.error = [], error
        else:
            first.refusal = error
        served = gateway(first, second, fast=route("a:m", "b:m"))
        generation = await served.start(ask("fast"))
        assert (generation.provider, generation.attempts, generation.info.id) == ("b", 2, "m")
        assert first.num_active == 0
        kinds = [type(event) async for event in generation]
        assert kinds == [TextDelta, Finished]
        await generation.aclose()
        assert is_idle(served, [first, second])
        assert second.requests[0].model == "m"

    asyncio.run(run())


@pytest.mark.parametrize("error", STAYS, ids=lambda error: type(error).__name__)
def test_fault_of_the_request_is_reported_at_once(error: ServerError) -> None:
    async def run() -> None:
        first, second = backend("a", error), backend("b")
        served = gateway(first, second, fast=route("a:m", "b:m", retries=3))
        with pytest.raises(type(error)):
            await served.start(ask("fast"))
        assert not second.requests
        assert is_idle(served, [first, second])

    asyncio.run(run())


@pytest.mark.parametrize(
    ("error", "fallback_on", "falls_back"),
    [
        (ContextTooLong("long"), ["context"], True),
        (ProviderLimited("slower"), ["5xx", "connection"], False),
        (ProviderLimited("slower"), [429], True),
        (DOWN, ["connection"], True),
        (ProviderError("odd"), ["connection", 408, 429], False),
        (Overloaded("full"), ["5xx"], False),
        (ProviderTimedOut("late"), [408], True),
    ],
)
def test_what_leads_on_can_be_chosen(error: ServerError, fallback_on: list[object], falls_back: bool) -> None:
    async def run() -> None:
        served = gateway(backend("a", error), backend("b"), r=route("a:m", "b:m", fallback_on=fallback_on))
        if falls_back:
            assert await answer(served, ask("r")) == "b"
        else:
            with pytest.raises(type(error)):
                await answer(served, ask("r"))

    asyncio.run(run())


def test_failure_after_the_first_event_is_the_callers() -> None:
    async def run() -> None:
        first, second = backend("a"), backend("b")
        first.error = DOWN
        served = gateway(first, second, fast=route("a:m", "b:m", retries=3))
        with pytest.raises(ProviderUnreachable):
            await answer(served, ask("fast"))
        assert (len(first.requests), len(second.requests)) == (1, 0)
        assert is_idle(served, [first, second])

    asyncio.run(run())


def test_last_error_is_reported_when_all_fail() -> None:
    async def run() -> None:
        served = gateway(
            backend("a", DOWN), backend("b", ProviderLimited("slower")), fast=route("a:m", "b:m")
        )
        with pytest.raises(ProviderLimited):
            await served.start(ask("fast"))

    asyncio.run(run())


def test_all_are_asked_again_after_a_pause_that_grows() -> None:
    async def run() -> None:
        clock, first, second = ManualClock(), backend("a", DOWN), backend("b", DOWN)
        served = gateway(first, second, clock=clock, fast=route("a:m", "b:m", retries=2))
        with pytest.raises(ProviderUnreachable):
            await served.start(ask("fast"))
        assert (len(first.requests), len(second.requests)) == (3, 3)
        assert 0.125 <= clock.slept[0] <= 0.375
        assert 0.25 <= clock.slept[1] <= 0.75

    asyncio.run(run())


def limited(after: str) -> ProviderLimited:
    return ProviderLimited("slower", headers={"Retry-After": after})


def test_retry_waits_as_long_as_it_was_asked_to() -> None:
    async def run() -> None:
        clock, first = ManualClock(), backend("a", limited("3"))
        served = gateway(first, clock=clock, fast=route("a:m", retries=1))
        with pytest.raises(ProviderLimited):
            await served.start(ask("fast"))
        assert clock.slept == [pytest.approx(3)]
        assert len(first.requests) == 2

    asyncio.run(run())


def test_a_pause_that_no_provider_has_named_is_not_waited_for() -> None:
    """Callers get a Retry-After in any case: of a provider that cannot be reached it is a guess."""

    async def run() -> None:
        for error in (unreachable("down"), to_error(Refusal("p", 429)), to_error(Refusal("p", 503))):
            clock, first = ManualClock(), backend("a", error)
            served = gateway(first, clock=clock, fast=route("a:m", retries=1))
            with pytest.raises(ProviderError) as raised:
                await served.start(ask("fast"))
            assert raised.value.headers["Retry-After"] == "1"
            assert [pause < 0.5 for pause in clock.slept] == [True]

    asyncio.run(run())


def test_a_pause_that_a_provider_has_named_is_waited_for() -> None:
    async def run() -> None:
        for error in (
            to_error(Refusal("p", 429, headers={"retry-after": "1"})),
            to_error(Refusal("p", 503, pause="1")),
        ):
            clock, first = ManualClock(), backend("a", error)
            served = gateway(first, clock=clock, fast=route("a:m", retries=1))
            with pytest.raises(ProviderError):
                await served.start(ask("fast"))
            assert clock.slept == [pytest.approx(1)]

    asyncio.run(run())


def test_who_asked_for_more_time_is_not_asked_while_others_are() -> None:
    async def run() -> None:
        clock, first, second = ManualClock(), backend("a", limited("60")), backend("b", DOWN)
        served = gateway(first, second, clock=clock, fast=route("a:m", "b:m", retries=2))
        with pytest.raises(ProviderUnreachable):
            await served.start(ask("fast"))
        assert (len(first.requests), len(second.requests)) == (1, 3)

    asyncio.run(run())


@pytest.mark.parametrize(("after", "timeout_s"), [("60", None), ("5", 4.0)])
def test_too_long_a_wait_is_passed_on_to_the_caller(after: str, timeout_s: float | None) -> None:
    async def run() -> None:
        clock, first = ManualClock(), backend("a", limited(after))
        served = gateway(first, clock=clock, fast=route("a:m", retries=5))
        with pytest.raises(ProviderLimited) as raised:
            await served.start(ask("fast", timeout_s))
        assert raised.value.headers["Retry-After"] == after
        assert (clock.slept, len(first.requests)) == ([], 1)

    asyncio.run(run())


def test_retry_after_may_be_a_date_or_nonsense() -> None:
    in_a_minute = email.utils.formatdate(time.time() + 60, usegmt=True)
    assert 50 < retry_after_s(limited(in_a_minute)) <= 60
    assert retry_after_s(limited("1.5")) == 1.5
    for nothing in ("-1", "soon", "nan", ""):
        assert retry_after_s(limited(nothing)) == 0
    assert retry_after_s(ProviderError("odd")) == 0


def test_target_that_keeps_failing_is_left_alone_and_probed_later() -> None:
    async def run() -> None:
        clock, first, second = ManualClock(), backend("a", DOWN), backend("b")
        served = gateway(first, second, clock=clock, fast=route("a:m", "b:m"))
        for _ in range(MAX_FAILURES + 3):
            assert await answer(served, ask("fast")) == "b"
        assert len(first.requests) == MAX_FAILURES
        assert [candidate.breaker for candidate in served.router.explain("fast").candidates] == [
            "open",
            "closed",
        ]
        clock.time += COOL_DOWN_S
        first.refusal = None
        assert await answer(served, ask("fast")) == "a"
        assert served.router.explain("fast").candidates[0].breaker == "closed"

    asyncio.run(run())


def test_a_target_that_was_never_asked_is_not_thought_well() -> None:
    uses = Uses((Use("audio", None, "refused"),))

    async def run() -> None:
        clock, first = ManualClock(), backend("a", DOWN)
        served = gateway(first, backend("b"), clock=clock, fast=route("a:m", "b:m"))
        for _ in range(MAX_FAILURES):
            await answer(served, ask("fast"))
        clock.time += COOL_DOWN_S
        with pytest.raises(UnsupportedParameter):
            await served.start(ask("fast"), uses=uses)
        assert served.router.explain("fast").candidates[0].breaker == "half-open"
        assert len(first.requests) == MAX_FAILURES

    asyncio.run(run())


def test_what_is_left_out_depends_on_the_target_that_answers() -> None:
    uses = Uses(
        (Use("a", Feature.USER, "ignored"), Use("b", Feature.SEED, "refused"), Use("c", None, "ignored"))
    )

    def able(name: str, *features: Feature, refusal: ServerError | None = None) -> FakeBackend:
        return FakeBackend([name], id="m", name=name, features=frozenset(features), refusal=refusal)

    async def run() -> None:
        first = able("a", Feature.USER, Feature.SEED, refusal=DOWN)
        second, unable = able("b", Feature.SEED), able("c", Feature.USER)
        served = gateway(first, second, unable, fast=route("a:m", "b:m"), slow=route("a:m", "c:m"))
        generation = await served.start(ask("fast"), uses=uses)
        assert (generation.provider, generation.ignored) == ("b", ["a", "c"])
        await generation.aclose()
        assert served.left_out(uses, "fast") == ["c"]  # by the first target
        with pytest.raises(UnsupportedParameter) as refused:
            await served.start(ask("slow"), uses=uses)
        assert refused.value.param == "b"
        assert len(unable.requests) == 0
        assert is_idle(served, [first, second, unable])

    asyncio.run(run())


def test_all_left_alone_is_a_503_that_says_until_when() -> None:
    async def run() -> None:
        served = gateway(backend("a", DOWN), fast=route("a:m"))
        for _ in range(MAX_FAILURES):
            with pytest.raises(ProviderUnreachable, match="down"):
                await served.start(ask("fast"))
        with pytest.raises(ProviderUnreachable, match="left alone") as raised:
            await served.start(ask("fast"))
        assert raised.value.headers["Retry-After"] == str(int(COOL_DOWN_S))
        assert served.num_active == 0

    asyncio.run(run())


@pytest.mark.parametrize("retries", [1, 5])
@pytest.mark.parametrize("names", ["a", "ab"])
def test_nobody_waits_until_a_target_is_no_longer_left_alone(names: str, retries: int) -> None:
    async def run() -> None:
        clock = ManualClock()
        targets = [f"{name}:m" for name in names]
        served = gateway(
            *(backend(name, DOWN) for name in names), fast=route(*targets, retries=retries), clock=clock
        )
        for _ in range(MAX_FAILURES + 1):
            with pytest.raises(ProviderUnreachable):
                await served.start(ask("fast"))
        assert sum(clock.slept) < COOL_DOWN_S

    asyncio.run(run())


@pytest.mark.parametrize("error", [limited("0"), Overloaded("full"), ProviderRefused("bad")])
def test_busy_or_strict_target_is_not_ill(error: ServerError) -> None:
    async def run() -> None:
        served = gateway(backend("a", error), backend("b"), fast=route("a:m", "b:m"))
        for _ in range(MAX_FAILURES * 2):
            with contextlib.suppress(ProviderRefused):
                await answer(served, ask("fast"))
        assert served.router.explain("fast").candidates[0].breaker == "closed"

    asyncio.run(run())


def test_slow_target_is_overtaken_and_closed() -> None:
    async def run() -> None:
        slow, quick = backend("a", delay_s=60), backend("b")
        served = gateway(slow, quick, fast=route("a:m", "b:m", hedge_after_ms=20))
        generation = await served.start(ask("fast"))
        assert (generation.provider, generation.attempts) == ("b", 2)
        assert (slow.num_active, quick.num_active) == (0, 1)
        await generation.aclose()
        assert is_idle(served, [slow, quick])

    asyncio.run(run())


def test_first_target_wins_the_race_if_it_is_there_first() -> None:
    async def run() -> None:
        first, second = backend("a", delay_s=0.1), backend("b", delay_s=60)
        served = gateway(first, second, fast=route("a:m", "b:m", hedge_after_ms=20))
        generation = await served.start(ask("fast"))
        assert (generation.provider, generation.attempts) == ("a", 2)
        assert second.num_active == 0
        await generation.aclose()
        assert is_idle(served, [first, second])

    asyncio.run(run())


def test_quick_target_is_not_hedged() -> None:
    async def run() -> None:
        first, second = backend("a"), backend("b")
        served = gateway(first, second, fast=route("a:m", "b:m", hedge_after_ms=60_000))
        assert await answer(served, ask("fast")) == "a"
        assert not second.requests

    asyncio.run(run())


@pytest.mark.parametrize("hedge_after_ms", [0, 10])
def test_who_leaves_while_targets_are_asked_frees_them(hedge_after_ms: int) -> None:
    async def run() -> None:
        backends = [backend("a", delay_s=60), backend("b", opening_s=60)]
        served = gateway(*backends, fast=route("a:m", "b:m", hedge_after_ms=hedge_after_ms))
        starting = asyncio.ensure_future(served.start(ask("fast")))
        while sum(each.num_active for each in backends) < (2 if hedge_after_ms else 1):  # noqa: ASYNC110  # it is plain state
            await asyncio.sleep(0.005)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert is_idle(served, backends)

    asyncio.run(run())


def test_deadline_holds_along_the_route() -> None:
    async def run() -> None:
        slow = backend("a", delay_s=60)
        served = gateway(slow, fast=route("a:m"))
        with pytest.raises(TimedOut):
            await served.start(ask("fast", 0.05))
        assert is_idle(served, [slow])

    asyncio.run(run())


def test_target_gets_the_time_that_is_left() -> None:
    async def run() -> None:
        first, second = backend("a", limited("2")), backend("b", DOWN)
        served = gateway(first, second, fast=route("a:m", retries=1), other=route("b:m"))
        with pytest.raises(ProviderLimited):
            await served.start(ask("fast", 10))
        assert [request.timeout_s for request in first.requests] == [10, pytest.approx(8)]
        with pytest.raises(ProviderUnreachable):
            await served.start(ask("other"))
        assert second.requests[0].timeout_s is None

    asyncio.run(run())


class Unable(FakeBackend):
    async def embed(self, request: EmbedRequest) -> Embeddings:
        raise DOWN


def test_embeddings_fall_back_too() -> None:
    async def run() -> None:
        served = gateway(Unable([], id="m", name="a"), backend("b"), fast=route("a:m", "b:m"))
        reached = await served.embed(EmbedRequest("fast", ("x",)))
        assert (reached.provider, reached.attempts, reached.info.id) == ("b", 2, "m")
        assert served.num_active == 0

    asyncio.run(run())


@pytest.mark.parametrize("hedge_after_ms", [0, 1])
def test_many_under_random_faults_end_once_each_and_leave_nothing(hedge_after_ms: int) -> None:
    async def run() -> None:
        random = Random(7)
        backends = [Fickle(name, random, [*FALLS_BACK, *STAYS]) for name in "abc"]
        targets = [{"target": f"{each.name}:m", "weight": 1} for each in backends]
        served = gateway(*backends, fast=route(*targets, retries=1, hedge_after_ms=hedge_after_ms))
        ends = {"answered": 0, "failed": 0, "left": 0}

        async def one() -> None:
            asking = asyncio.ensure_future(answer(served, ask("fast", 5)))
            if random.random() < 0.2:
                asyncio.get_running_loop().call_later(random.random() / 100, asking.cancel)
            try:
                await asking
                ends["answered"] += 1
            except asyncio.CancelledError:
                ends["left"] += 1
            except ServerError:
                ends["failed"] += 1

        for _ in range(10):
            await asyncio.gather(*(one() for _ in range(30)))
        assert sum(ends.values()) == 300
        assert all(ends.values())
        assert is_idle(served, backends)

    asyncio.run(run())
