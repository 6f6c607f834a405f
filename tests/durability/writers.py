"""Clients that write, one request at a time each, and remember what was acknowledged."""

from __future__ import annotations

import asyncio
import json
import random
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from typing import Any

from tests.durability.api import TIMEOUT_S, Api, Json, Unanswered
from tests.durability.ledger import ANSWER, Attempt, Ledger, Said
from tests.wire.stream_order import check_stream, read_stream

MODEL, STALLED = "x:fake", "stalled:fake"  # one that answers at once, one that never does
LONG = 60  # items of a path; then the next one is begun
UNFINISHED = ("queued", "in_progress")
ENDS = ("response.completed", "response.failed")


class Writer(ABC):
    """`check` asks for all that was acknowledged since this was last done; `write` adds something. Both raise
    Unanswered.
    """

    def __init__(self, number: int, api: Api, dice: random.Random) -> None:
        self._number, self._api, self._dice = number, api, dice
        self._count = 0
        self.num_acknowledged = 0

    @abstractmethod
    async def check(self) -> None: ...

    @abstractmethod
    async def write(self) -> None: ...

    async def write_on(self) -> None:
        """Until the server is gone."""
        while True:
            await self.write()

    def _check_stored(self, response: Json) -> None:
        """Raises Unanswered: it is answered and says itself that it is not stored."""
        assert response["status"] == "completed", response["error"]
        assert [said(item) for item in response["output"]] == [("assistant", ANSWER)]
        if not response["store"]:
            self._api.unkept()

    def _text(self) -> str:
        self._count += 1
        return f"writer {self._number}, text {self._count}"


class Conversing(Writer):
    """Adds to conversations in every way that there is."""

    def __init__(self, number: int, api: Api, dice: random.Random) -> None:
        super().__init__(number, api, dice)
        self._ledgers: dict[str, Ledger] = {}
        self._id = ""

    async def check(self) -> None:
        """Old conversations do not change: the newest, and one of the others."""
        others = [id for id in self._ledgers if id != self._id]
        for id in [self._id, *self._dice.sample(others, min(1, len(others)))] if self._id else []:
            await self._check(id)

    async def check_all(self) -> None:
        for id in self._ledgers:
            await self._check(id)

    async def _check(self, id: str) -> None:
        path = [said(item) for item in await listed(self._api, f"/conversations/{id}/items")]
        self._ledgers[id].check(path)

    async def write(self) -> None:
        if not self._id or len(self._ledgers[self._id].acknowledged) > LONG:
            await self._begin()
        ways = (self._add_items, self._chat, self._chat_streamed, self._respond, self._respond_streamed)
        attempt, writing = self._dice.choice(ways)()
        await writing
        attempt.is_acknowledged = True
        self.num_acknowledged += 1

    async def _begin(self) -> None:
        text = self._text()
        body = {"items": [message(text)], "metadata": {"writer": str(self._number)}}
        self._id = (await self._api.post("/conversations", body))["id"]
        self._ledgers[self._id] = Ledger()
        self._ledgers[self._id].items(text).is_acknowledged = True

    def _add_items(self) -> tuple[Attempt, Awaitable[object]]:
        texts = [self._text() for _ in range(self._dice.randint(1, 5))]
        body = {"items": [message(text) for text in texts]}
        return self._ledger.items(*texts), self._api.post(f"/conversations/{self._id}/items", body)

    def _chat(self) -> tuple[Attempt, Awaitable[object]]:
        text = self._text()
        asking = self._api.post("/chat/completions", self._chat_body(text), {"X-Conversation-ID": self._id})
        return self._ledger.turn(text), asking

    def _chat_streamed(self) -> tuple[Attempt, Awaitable[object]]:
        text = self._text()
        body = {**self._chat_body(text), "stream": True}
        asking = self._api.stream("POST", "/chat/completions", body, {"X-Conversation-ID": self._id})
        return self._ledger.turn(text), self._to_end(asking)

    def _respond(self) -> tuple[Attempt, Awaitable[object]]:
        text = self._text()
        return self._ledger.turn(text), self._stored(self._api.post("/responses", self._turn(text)))

    def _respond_streamed(self) -> tuple[Attempt, Awaitable[object]]:
        text = self._text()
        asking = self._api.stream("POST", "/responses", {**self._turn(text), "stream": True})
        return self._ledger.turn(text), self._responded(asking)

    @property
    def _ledger(self) -> Ledger:
        return self._ledgers[self._id]

    def _chat_body(self, text: str) -> Json:
        return {"model": MODEL, "messages": [{"role": "user", "content": text}]}

    def _turn(self, text: str) -> Json:
        return {"model": MODEL, "input": text, "conversation": self._id}

    async def _stored(self, asking: Awaitable[Json]) -> None:
        self._check_stored(await asking)

    async def _responded(self, asking: Awaitable[list[bytes]]) -> None:
        events = read_stream(await asking, whole=False)
        if not events or events[-1]["type"] not in ENDS:
            raise Unanswered
        self._check_stored(events[-1]["response"])

    async def _to_end(self, asking: Awaitable[list[bytes]]) -> None:
        chunks = b"".join(await asking)
        if not chunks.endswith(b"data: [DONE]\n\n"):
            raise Unanswered
        if b": X-Headrace-Persisted: false\n\n" in chunks:
            self._api.unkept()


class Chaining(Writer):
    """Goes on from response to response."""

    def __init__(self, number: int, api: Api, dice: random.Random) -> None:
        super().__init__(number, api, dice)
        self._last: str | None = None
        self._ledger = Ledger()
        self._unchecked: list[str] = []

    async def check(self) -> None:
        for id in self._unchecked:
            found = await self._api.get(f"/responses/{id}")
            assert (found["status"], found["error"]) == ("completed", None)
        if self._last is not None:
            answered = await self._api.get(f"/responses/{self._last}")
            inputs = await listed(self._api, f"/responses/{self._last}/input_items")
            self._ledger.check([said(item) for item in [*inputs, *answered["output"]]])
        self._unchecked.clear()

    async def write(self) -> None:
        if len(self._ledger.attempts) > LONG // 2:
            self._last, self._ledger = None, Ledger()
        text = self._text()
        body = {"model": MODEL, "input": text, "previous_response_id": self._last}
        response = await self._api.post("/responses", body)
        self._check_stored(response)
        self._ledger.turn(text).is_acknowledged = True
        self._last = response["id"]
        self._unchecked.append(response["id"])
        self.num_acknowledged += 1


class Completing(Writer):
    """Stored chat completions."""

    def __init__(self, number: int, api: Api, dice: random.Random) -> None:
        super().__init__(number, api, dice)
        self._texts: dict[str, str] = {}  # of the completions, by their ids
        self._unchecked: list[str] = []

    async def check(self) -> None:
        for id in self._unchecked:
            found = await self._api.get(f"/chat/completions/{id}")
            assert found["choices"][0]["message"]["content"] == ANSWER
            inputs = (await self._api.get(f"/chat/completions/{id}/messages"))["data"]
            assert [message["content"] for message in inputs] == [self._texts[id]]
        self._unchecked.clear()

    async def check_all(self) -> None:
        """Those that nobody heard of may be there, but none twice."""
        filter = {"metadata[writer]": str(self._number)}
        found = await listed(self._api, "/chat/completions", **filter)
        texts = [one["metadata"]["text"] for one in found]
        assert {one["id"] for one in found} >= set(self._texts)
        assert len(set(texts)) == len(texts)

    async def write(self) -> None:
        text = self._text()
        body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "store": True}
        metadata = {"writer": str(self._number), "text": text}
        answer = await self._api.post("/chat/completions", {**body, "metadata": metadata})
        self._texts[answer["id"]] = text
        self._unchecked.append(answer["id"])
        self.num_acknowledged += 1


class InBackground(Writer):
    """Responses that nobody waits for, some of them streamed: completed, or failed with a reason."""

    def __init__(self, number: int, api: Api, dice: random.Random, model: str = MODEL) -> None:
        super().__init__(number, api, dice)
        self._model = model
        self._texts: dict[str, str] = {}
        self._seen: dict[str, list[Json]] = {}  # events of those that are streamed
        self._conversation = ""
        self.statuses: list[str] = []

    async def check(self) -> None:
        for id in list(self._texts):
            response = await self._api.get(f"/responses/{id}")
            if response["status"] in UNFINISHED:
                assert self._model == MODEL, "nobody makes it any more"
                continue  # it was begun a moment ago, and is being made
            await self._check(id, response)
            self.statuses.append(response["status"])
            del self._texts[id]
        if self._conversation and self._model == STALLED:  # held by what will not end any more
            await self._api.post(f"/conversations/{self._conversation}/items", {"items": [message("free")]})

    async def until_done(self) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while self._texts:
                await self.check()

    async def _check(self, id: str, response: Json) -> None:
        inputs = await listed(self._api, f"/responses/{id}/input_items")
        assert said(inputs[-1]) == ("user", self._texts[id])
        answer = [said(item) for item in response["output"]]
        if response["status"] == "failed":
            assert response["error"]["message"]
            assert answer == []
        else:
            assert (response["status"], answer) == ("completed", [("assistant", ANSWER)])
        if (seen := self._seen.pop(id, None)) is not None and seen[-1]["type"] not in ENDS:
            query = f"stream=true&starting_after={seen[-1]['sequence_number']}"
            rest = events_of(b"".join(await self._api.stream("GET", f"/responses/{id}?{query}")))
            numbers = [event["sequence_number"] for event in [*seen, *rest]]
            assert numbers == list(range(len(numbers)))
            if len(rest) > 1:
                check_stream([*seen, *rest])
            else:  # what was on the way died with the server: the end is told
                assert rest[0]["type"] == f"response.{response['status']}"

    async def write(self) -> None:
        if not self._conversation:
            self._conversation = (await self._api.post("/conversations", {}))["id"]
        text = self._text()
        body = {"model": self._model, "input": text, "background": True}
        if self._model == STALLED:
            body["conversation"] = self._conversation
        if self._dice.random() < 0.5:
            events = read_stream(
                await self._api.stream("POST", "/responses", {**body, "stream": True}), whole=False
            )
            if not events:
                raise Unanswered
            id = events[0]["response"]["id"]
            self._seen[id] = events
        else:
            id = (await self._api.post("/responses", body))["id"]
        self._texts[id] = text
        self.num_acknowledged += 1
        if self._model == STALLED:
            await self._until_gone()

    async def _until_gone(self) -> None:
        while True:
            await asyncio.sleep(0.05)
            await self._api.get("/models")


def message(text: str) -> Json:
    return {"type": "message", "role": "user", "content": text}


def said(item: Json) -> Said:
    return item["role"], "".join(part["text"] for part in item["content"])


def events_of(raw: bytes) -> list[Json]:
    return [json.loads(line[6:]) for line in raw.decode().splitlines() if line.startswith("data: {")]


async def listed(api: Api, path: str, **query: str) -> list[Json]:
    """All entries of a list, page by page."""
    found: list[Json] = []
    while True:
        after: Any = {"after": found[-1]["id"]} if found else {}
        page = await api.get(path, limit=100, order="asc", **query, **after)
        found += page["data"]
        if not page["has_more"]:
            return found
