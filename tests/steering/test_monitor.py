"""GET /v1/activations/stream: what the probes of running requests read; and what /metrics says of them."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from headrace.gateway.monitor import MAX_WAITING, Follower, Monitor
from headrace.models.catalog import Model
from headrace.steering.types import Activations, Reading, Seen
from headrace.types import GenerateRequest, Sampling, TextDelta, Texts
from tests.metering.scrape import scrape
from tests.serving import Served, eventually
from tests.steering.serving import SAE, VECTOR, copied, load, steerable

MODEL = "smollm2-135m-instruct"


@pytest.fixture(scope="module")
def steered(default_model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One with keys, whose administrator the requests are from that name no key."""
    keys = {"api_keys": ("first-key", "second-key"), "admin_keys": ("the-admin",)}
    root = copied(tmp_path_factory.mktemp("steering") / "root")
    with steerable(default_model, root, server=keys) as served:
        served.http.headers["Authorization"] = "Bearer the-admin"
        load(served)
        yield served


@contextmanager
def followed(served: Served, query: str = "", key: str = "") -> Iterator[list[dict[str, Any]]]:
    """The events of a stream, as they come, until the block ends."""
    found: list[dict[str, Any]] = []
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with served.http.stream("GET", f"/v1/activations/stream{query}", headers=headers, timeout=600) as answer:
        assert answer.status_code == 200

        def read() -> None:
            with suppress(Exception):  # the connection is closed while it is read
                found.extend(
                    json.loads(line.removeprefix("data: "))
                    for line in answer.iter_lines()
                    if line.startswith("data: {")
                )

        reader = threading.Thread(target=read)
        reader.start()
        yield found
        answer.extensions["network_stream"].get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        reader.join()


def ask(served: Served, key: str = "", **probe: object) -> tuple[str, list[dict[str, Any]]]:
    """The request's id, and what its own answer says of the tokens that were read."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, "probe": probe}
    answer = served.post("/v1/chat/completions", body, headers=headers)
    assert answer.status_code == 200, answer.text
    content = answer.json()["choices"][0]["feature_activations"]["content"]
    return answer.headers["x-request-id"], [entry for entry in content if entry["top"]]


def test_a_stream_has_what_the_requests_own_answers_have(steered: Served) -> None:
    with followed(steered, f"?sae={SAE}") as events, followed(steered, "?request_id=other") as others:
        id, read = ask(steered, sae=SAE, top_k=2, require="all")
        eventually(lambda: len(events) >= len(read))
        assert [event["request_id"] for event in events] == [id] * len(read)
        for event, entry in zip(events, read, strict=True):
            assert event == {"request_id": id, "model": MODEL, "index": 0, "dropped": 0, **entry}
        assert others == []


def test_only_ones_own_requests_are_seen(steered: Served) -> None:
    with followed(steered, key="first-key") as events:
        ask(steered, key="second-key", sae=SAE, top_k=1, require="all")
        id, read = ask(steered, key="first-key", sae=SAE, top_k=1, require="all")
        eventually(lambda: len(events) >= len(read))
        assert {event["request_id"] for event in events} == {id}


def test_a_slow_reader_loses_the_oldest() -> None:
    asyncio.run(read_slowly())


async def read_slowly() -> None:
    monitor, follower = Monitor(), Follower("me")
    request = GenerateRequest("m", Texts(("x",)), Sampling(), owner="me")
    with monitor.following(follower):
        observer = monitor.observer(request)
        for place in range(MAX_WAITING + 5):
            entry = Activations(place, "x", b"x", readings=(Reading("s", {1: 0.5}),))
            observer.on_event(TextDelta(0, "x", activations=(entry,)))
        found = await follower.next(1.0)
    assert [found[0].dropped, found[0].entry.position, len(found)] == [5, 5, MAX_WAITING]
    assert all(isinstance(one, Seen) and not one.dropped for one in found[1:])
    assert await follower.next(0.001) == []


def send(served: Served, **members: object) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, **members}
    answered = served.post("/v1/chat/completions", body)
    assert answered.status_code == 200, answered.text


def test_steered_and_probed_requests_are_counted(steered: Served) -> None:
    steering = {"ops": [{"vector": VECTOR, "value": 1}]}
    made = steered.post("/v1/steering/profiles", {"name": "counted", "steering": steering})
    assert made.status_code == 200, made.text
    before = scrape(steered)
    send(steered)
    send(steered, steering=steering)
    send(steered, steering={"profile": "counted", "sweep": [0.5, 1]})
    send(steered, probe={"sae": SAE, "top_k": 1, "require": "all"})
    after = scrape(steered)

    def grown(name: str, **labels: str) -> float:
        return after.get(name, **labels) - before.get(name, **labels)

    assert grown("headrace_steered_requests_total", model=MODEL, profile="") == 1
    assert grown("headrace_steered_requests_total", model=MODEL, profile="counted") == 1
    assert grown("headrace_steered_tokens_total") > 3 * 3
    assert grown("headrace_steering_relative_dose_count") == 3
    assert 0.1 < grown("headrace_steering_relative_dose_sum") < 1
    assert grown("headrace_probed_requests_total", model=MODEL) == 1
    assert grown("headrace_probed_tokens_total", model=MODEL) > 3
    assert grown("headrace_requests_total", model=MODEL) == 4
