"""64 clients at once, half of which leave at random moments: the others get the right text, and nothing is
left behind.
"""

from __future__ import annotations

import json
import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from headrace.backends.engine import EngineBackend
from headrace.models.catalog import DEFAULT_MODEL
from tests.serving import Served, events, eventually

PATH = "/v1/completions"
CROWD = 64
SUBJECTS = ("The sky is", "The capital of France is", "Water boils at", "Once upon a time", "def add(a, b):")
SHARED = "Here is a list of facts about the world, each of them on a line of its own. " * 4


def body(number: int, **members: Any) -> dict[str, Any]:
    """Some prompts share a beginning, some are short, all differ in length of answer."""
    prompt = (SHARED if number % 2 else "") + SUBJECTS[number % len(SUBJECTS)]
    limit = 8 + number % 17
    return {"model": DEFAULT_MODEL, "prompt": prompt, "temperature": 0, "max_tokens": limit, **members}


def stay(server: Served, number: int) -> str:
    response = server.post(PATH, body(number, stream=number % 3 == 0))
    assert response.status_code == 200, response.text
    if number % 3:
        return str(response.json()["choices"][0]["text"])
    return "".join(chunk["choices"][0]["text"] for chunk in events(response)[:-1])


def leave(server: Served, number: int) -> None:
    """Before the first byte, in mid-stream, or while a JSON answer is computed."""
    chance = random.Random(number)
    content = json.dumps(body(number, stream=number % 4 == 1, max_tokens=400, ignore_eos=True)).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head + content)
        if number % 8 == 1:
            connection.recv(64)
        time.sleep(chance.random())


@pytest.fixture(scope="module")
def alone(exact_server: Served) -> list[str]:
    """What each prompt gets when nobody else is there."""
    return [stay(exact_server, number) for number in range(0, CROWD, 2)]


def test_crowd_in_motion_gets_the_right_texts_and_leaves_nothing(
    exact_server: Served, alone: list[str]
) -> None:
    with ThreadPoolExecutor(CROWD) as pool:
        leaving = [pool.submit(leave, exact_server, number) for number in range(1, CROWD, 2)]
        staying = [pool.submit(stay, exact_server, number) for number in range(0, CROWD, 2)]
        texts = [each.result() for each in staying]
        for each in leaving:
            each.result()
    assert texts == alone
    backend = exact_server.backend
    assert isinstance(backend, EngineBackend)
    eventually(lambda: not exact_server.gateway.num_active)
    eventually(lambda: not backend.engine.has_work)
    assert backend.engine.pool.num_held == 0
    assert not backend.engine.scheduler.running
    assert not backend.engine.scheduler.waiting
    backend.engine.check()
