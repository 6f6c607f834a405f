"""Places: so many run, so many wait, the next is refused; whoever leaves gives its place back."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

import httpx2
import openai
import pytest

from headrace.backends.engine import EngineBackend
from headrace.engine.engine import Engine
from headrace.engine.sequence import SamplingParams
from headrace.models.catalog import DEFAULT_MODEL
from tests.serving import Served, events, eventually

PATH = "/v1/completions"


def body(**members: Any) -> dict[str, Any]:
    return {"model": DEFAULT_MODEL, "prompt": "Once upon a time", "temperature": 0, **members}


def engine_of(server: Served) -> Engine:
    assert isinstance(server.backend, EngineBackend)
    return server.backend.engine


def is_idle(server: Served) -> bool:
    engine = engine_of(server)
    return not (engine.has_work or engine.pool.num_held or server.gateway.num_active)


@contextmanager
def busy(server: Served, count: int, *, stream: bool = True) -> Iterator[list[socket.socket]]:
    """So many requests under way that take long; those that are still open leave at the end."""
    content = json.dumps(body(max_tokens=240, ignore_eos=True, stream=stream)).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n".encode()
    with ExitStack() as exits:
        sockets = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(count)]
        for each in sockets:
            exits.enter_context(each)
            each.sendall(head + content)
        eventually(lambda: server.gateway.num_active == count)
        yield sockets
    eventually(lambda: is_idle(server))


def test_beyond_all_places_is_503_with_retry_after(small_server: Served) -> None:
    with busy(small_server, 4):
        for members in ({}, {"stream": True}, {"n": 2}):
            response = small_server.post(PATH, body(**members))
            assert response.status_code == 503
            assert int(response.headers["retry-after"]) >= 1
            assert response.json()["error"]["code"] == "server_is_overloaded"
        assert small_server.get("/health").status_code == 200
        scheduler = engine_of(small_server).scheduler
        eventually(lambda: (len(scheduler.running), scheduler.num_waiting) == (2, 2))
    assert small_server.post(PATH, body()).status_code == 200


def test_those_with_a_place_complete(small_server: Served) -> None:
    def ask(_: int) -> httpx2.Response:
        return small_server.post(PATH, body(max_tokens=60, ignore_eos=True))

    with ThreadPoolExecutor(12) as pool:
        responses = list(pool.map(ask, range(12)))
    served = [response for response in responses if response.status_code == 200]
    assert {response.status_code for response in responses} == {200, 503}
    assert len(served) >= 4
    assert all(response.json()["usage"]["completion_tokens"] == 60 for response in served)
    eventually(lambda: is_idle(small_server))


@pytest.mark.parametrize(
    ("members", "count"),
    [({"n": 5}, 5), ({"prompt": ["A", "B", "C"] * 20}, 60), ({"prompt": ["A", "B"], "n": 7}, 14)],
    ids=["L10 n", "L10 prompts", "L10 both"],
)
@pytest.mark.parametrize("stream", [True, False])
def test_one_request_of_more_choices_than_places_gets_them_all(
    small_server: Served, members: dict[str, Any], count: int, stream: bool
) -> None:
    """The choices queue; their order, usage and ends are the same as if there had been room for all."""
    request = body(max_tokens=3, ignore_eos=True, stream=stream, **members)
    if stream:
        request["stream_options"] = {"include_usage": True}
    response = small_server.post(PATH, request)
    assert response.status_code == 200, response.text
    if stream:
        *chunks, last, _ = events(response)
        usage = last["usage"]
        ended = [c["index"] for chunk in chunks for c in chunk["choices"] if c["finish_reason"]]
        texts = ["".join(c["text"] for chunk in chunks for c in chunk["choices"] if c["index"] == number)
                 for number in range(count)]  # fmt: skip
        assert sorted(ended) == list(range(count))
    else:
        usage, choices = response.json()["usage"], response.json()["choices"]
        assert [choice["index"] for choice in choices] == list(range(count))
        assert {choice["finish_reason"] for choice in choices} == {"length"}
        texts = [choice["text"] for choice in choices]
    n, prompts = members.get("n", 1), members.get("prompt", ["Once upon a time"])
    alone = [small_server.post(PATH, body(max_tokens=3, ignore_eos=True, prompt=prompt)).json()
             for prompt in prompts[:3]]  # fmt: skip
    each = [one["usage"]["prompt_tokens"] for one in alone]
    assert usage["completion_tokens"] == 3 * count
    assert usage["prompt_tokens"] == sum(each[number % len(each)] for number in range(len(prompts)))
    if n == 1:
        assert [bool(text) for text in texts] == [True] * count
    eventually(lambda: is_idle(small_server))


def test_l10_a_thousand_prompts_leave_room_for_everybody_else(small_server: Served) -> None:
    """One caller's prompts queue beside others': those who come meanwhile are served, and soon."""
    raw = json.dumps(body(prompt=["tale"] * 1024, max_tokens=8, ignore_eos=True)).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(raw)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", small_server.port)) as connection:
        connection.sendall(head + raw)
        scheduler = engine_of(small_server).scheduler
        eventually(lambda: len(scheduler.running) == 2)
        for _ in range(5):
            assert small_server.post(PATH, body(max_tokens=2)).status_code == 200
        with ThreadPoolExecutor(3) as pool:
            others = list(pool.map(lambda _: small_server.post(PATH, body(max_tokens=4)), range(3)))
        assert [other.status_code for other in others].count(200) >= 2  # there are four places
        embedded = {"model": DEFAULT_MODEL, "input": ["a", "b", "c", "d", "e"]}
        assert small_server.post("/v1/embeddings", embedded).status_code == 200
        assert small_server.gateway.num_active == 1, "the thousand are not done yet"
    eventually(lambda: is_idle(small_server))


def test_starting_an_answer_is_little_work_for_the_event_loop(small_server: Served) -> None:
    """What all answers to a prompt share, such as the sorted biases, is computed before they are started."""
    computed: list[str] = []

    def saw(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code is SamplingParams.__post_init__.__code__:
            computed.append(threading.current_thread().name)

    prompts = [f"Once upon {number}" for number in range(40)]
    scored = {"n": 2, "echo": True, "logprobs": 1, "logit_bias": {"5": -1}, "max_tokens": 1}
    small_server.loop.call_soon_threadsafe(sys.setprofile, saw)
    try:
        response = small_server.post(PATH, body(prompt=prompts, **scored))
        choices = response.json()["choices"]
    finally:
        small_server.loop.call_soon_threadsafe(sys.setprofile, None)
    assert [bool(one["logprobs"]["token_logprobs"]) for one in choices] == [True] * 80
    assert computed == []


def test_l10_two_large_requests_share_the_seats(small_server: Served) -> None:
    def ask(prompts: int) -> float:
        request = body(prompt=["tale"] * prompts, max_tokens=8, ignore_eos=True)
        assert small_server.post(PATH, request).status_code == 200
        return time.monotonic()

    with ThreadPoolExecutor(2) as pool:
        large = pool.submit(ask, 80)
        eventually(lambda: len(engine_of(small_server).scheduler.running) == 2)
        small = pool.submit(ask, 20)
        assert small.result() < large.result()
    eventually(lambda: is_idle(small_server))


def test_more_answers_than_a_request_may_have_are_refused(small_server: Served) -> None:
    for members, param in (({"n": 128, "prompt": ["a"] * 9}, "n"), ({"prompt": ["a"] * 1025}, "prompt")):
        response = small_server.post(PATH, body(**members))
        assert (response.status_code, response.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("stream", [True, False])
def test_waiting_client_that_leaves_frees_its_place(small_server: Served, stream: bool) -> None:
    with busy(small_server, 4, stream=stream) as sockets:
        scheduler = engine_of(small_server).scheduler
        eventually(lambda: scheduler.num_waiting == 2)
        sockets[3].close()
        eventually(lambda: scheduler.num_waiting == 1)
        assert len(scheduler.running) == 2
        sockets[0].close()
        eventually(lambda: scheduler.num_waiting == 0)


@pytest.mark.parametrize("stream", [True, False])
def test_running_client_that_leaves_frees_its_blocks(server: Served, stream: bool) -> None:
    with busy(server, 1, stream=stream):
        eventually(lambda: engine_of(server).pool.num_held)
    assert engine_of(server).pool.num_held == 0


@pytest.mark.parametrize("stream", [True, False])
def test_client_that_leaves_during_prefill_frees_its_blocks(server: Served, stream: bool) -> None:
    engine = engine_of(server)
    content = json.dumps(body(prompt="tale " * 7000, stream=stream)).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head + content)
        eventually(lambda: engine.scheduler.running)
        sequence = engine.scheduler.running[0]
        assert sequence.num_generated == 0
    eventually(lambda: is_idle(server))
    assert sequence.num_computed < sequence.num_prompt


def test_overload_is_reported_to_the_client(small_server: Served) -> None:
    with (
        busy(small_server, 4),
        small_server.client() as client,
        pytest.raises(openai.InternalServerError) as raised,
    ):
        client.completions.create(model=DEFAULT_MODEL, prompt="x", stream=True)
    assert raised.value.status_code == 503
