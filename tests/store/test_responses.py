"""Responses: saved, replaced, streamed, cancelled, deleted."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from headrace.errors import ItemNotFound, ResponseNotFound
from tests.store.conftest import Opened
from tests.store.values import OTHER, OWNER, message, response, texts


def test_saved_read_and_continued(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store:
            first = await store.responses.save(
                OWNER, response(), base=None, input=[message("q1")], output=[message("a1", "assistant")]
            )
            assert await store.responses.get(OWNER, first.id) == first
            assert texts(await store.items.path(OWNER, first.input_head)) == ["q1"]
            assert texts(await store.responses.output(OWNER, first)) == ["a1"]
            for name in ("resp_2", "resp_3"):  # two branches
                next_one = await store.responses.save(
                    OWNER,
                    response(name),
                    base=first.output_head,
                    input=[message("q2")],
                    output=[message(name)],
                )
                assert texts(await store.items.path(OWNER, next_one.output_head)) == ["q1", "a1", "q2", name]
            with pytest.raises(ItemNotFound):
                await store.responses.save(
                    OTHER, response("x"), base=first.output_head, input=[message("?")], output=[]
                )
            assert await store.verify() == []

    asyncio.run(run())


def test_replacing_a_running_response_stores_its_input_once(opened: Opened) -> None:
    question = [message("q")]

    async def run() -> None:
        async with opened() as store:
            queued = response(status="queued")
            saved = await store.responses.save(OWNER, queued, base=None, input=question, output=[])
            assert saved.input_head == saved.output_head
            assert await store.responses.output(OWNER, saved) == []
            done = await store.responses.save(
                OWNER, response(is_it="done"), base=None, input=question, output=[message("a")]
            )
            assert await store.responses.get(OWNER, saved.id) == done
            assert done.input_head == saved.input_head
            assert texts(await store.responses.output(OWNER, done)) == ["a"]
            assert await store.verify() == []

    asyncio.run(run())


def test_for_another_owner_it_does_not_exist(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store:
            saved = await store.responses.save(OWNER, response(), base=None, input=[message("q")], output=[])
            for attempt in (
                store.responses.get(OTHER, saved.id),
                store.responses.delete(OTHER, saved.id),
                store.responses.cancel(OTHER, saved.id),
                store.responses.append_events(OTHER, saved.id, 0, ["{}"]),
                store.responses.events(OTHER, saved.id),
                store.responses.save(OTHER, response(), base=None, input=[], output=[]),
            ):
                with pytest.raises(ResponseNotFound):
                    await attempt
            assert await store.responses.get(OWNER, saved.id) == saved

    asyncio.run(run())


def test_events_are_replayed_from_any_number(opened: Opened) -> None:
    texts = [f'{{"n": {n}}}' for n in range(10)]

    async def run() -> None:
        async with opened() as store:
            with pytest.raises(ResponseNotFound):
                await store.responses.append_events(OWNER, "resp_1", 0, texts)
            await store.responses.save(OWNER, response(status="in_progress"), base=None, input=[], output=[])
            assert await store.responses.events(OWNER, "resp_1") == []
            for first, end in ((0, 4), (4, 5), (5, 10)):
                for _ in range(2):  # a batch that is stored already changes nothing
                    await store.responses.append_events(OWNER, "resp_1", first, texts[first:end])
            for after in range(-1, 11):
                assert await store.responses.events(OWNER, "resp_1", after=after) == texts[after + 1 :]
            assert await store.verify() == []
            await store.responses.save(OWNER, response(), base=None, input=[], output=[])
            await store.responses.delete(OWNER, "resp_1")
            with pytest.raises(ResponseNotFound):
                await store.responses.events(OWNER, "resp_1")

    asyncio.run(run())


def test_another_process_requests_to_cancel(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as runner, opened() as other:
            for name in ("resp_1", "resp_2"):
                await runner.responses.save(
                    OWNER, response(name, "in_progress"), base=None, input=[], output=[]
                )
            assert await runner.responses.cancel_requested(["resp_1", "resp_2"]) == set()
            current = await other.responses.cancel(OWNER, "resp_1")
            assert current.status == "in_progress"
            assert await runner.responses.cancel_requested(["resp_1", "resp_2"]) == {"resp_1"}
            await runner.responses.save(
                OWNER, response("resp_1", "cancelled"), base=None, input=[], output=[]
            )
            assert (await other.responses.cancel(OWNER, "resp_1")).status == "cancelled"

    asyncio.run(run())


def test_a_response_deleted_while_it_runs_stays_deleted(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store:
            running = response(status="in_progress")
            await store.responses.save(OWNER, running, base=None, input=[message("q")], output=[])
            await store.responses.delete(OWNER, running.id)
            assert await store.responses.cancel_requested([running.id]) == {running.id}
            await store.responses.append_events(
                OWNER, running.id, 0, ["{}"]
            )  # the running process notices nothing
            await store.responses.save(
                OWNER, replace(running, status="completed"), base=None, input=[], output=[message("a")]
            )
            with pytest.raises(ResponseNotFound):
                await store.responses.get(OWNER, running.id)
            with pytest.raises(ResponseNotFound):
                await store.responses.delete(OWNER, running.id)
            assert await store.verify() == []

    asyncio.run(run())


def test_responses_unfinished_at_close_have_failed(opened: Opened) -> None:
    async def run() -> None:
        async with opened() as store:
            made = await store.conversations.create(OWNER, [], {})
            async with opened() as leaving:
                await leaving.conversations.lock(OWNER, made.id)
                await leaving.responses.save(
                    OWNER, response(status="in_progress"), base=None, input=[], output=[]
                )
            left = await store.responses.get(OWNER, "resp_1")
            assert left.status == left.body["status"] == "failed"
            assert left.body["error"]["code"] == "server_error"
            assert "stopped before it was complete" in left.body["error"]["message"]
            await store.conversations.lock(OWNER, made.id)

    asyncio.run(run())
