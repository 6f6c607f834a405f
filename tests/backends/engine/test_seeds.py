"""A request with a seed gets the same text again, in the default precision: row L15."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from headrace.models.catalog import DEFAULT_MODEL, Model
from tests.conftest import serving_model
from tests.serving import Served, events

FACTS = "Here is a list of facts about mills and the rivers that drive them, each on a line of its own. "
CHAT = [
    {"role": "system", "content": FACTS * 9},
    {"role": "user", "content": "Tell me one more."},
]
TURNS = [*CHAT, {"role": "assistant", "content": "Water is heavy."}, {"role": "user", "content": "And why?"}]
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": CHAT}),
    ("/v1/chat/completions", {"messages": TURNS, "top_p": 0.9, "presence_penalty": 0.5, "logprobs": True}),
    ("/v1/completions", {"prompt": FACTS * 12, "min_p": 0.01}),
    ("/v1/completions", {"prompt": FACTS, "n": 3, "stop": ["\n\n"]}),
]


def body(members: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"model": DEFAULT_MODEL, "temperature": 1, "seed": 7, "max_tokens": 24, **members, **more}


def texts(server: Served, path: str, request: dict[str, Any]) -> list[str]:
    response = server.post(path, request)
    assert response.status_code == 200, response.text
    if not request.get("stream"):
        return [one.get("text", one.get("message", {}).get("content")) for one in response.json()["choices"]]
    found = [""] * request.get("n", 1)
    for chunk in events(response)[:-1]:
        for one in chunk["choices"]:
            found[one["index"]] += one.get("text", one.get("delta", {}).get("content")) or ""
    return found


@pytest.fixture(scope="module")
def fresh(default_model: Model) -> Iterator[list[list[str]]]:
    """What each gets from a server that has computed nothing before but the others of these."""
    with serving_model(default_model) as server:
        yield [texts(server, path, body(members)) for path, members in KINDS]


@pytest.mark.parametrize("kind", range(len(KINDS)))
@pytest.mark.parametrize("crowd", [0, 15])
@pytest.mark.parametrize("stream", [False, True])
def test_l15_same_seed_same_text(
    server: Served, fresh: list[list[str]], kind: int, crowd: int, stream: bool
) -> None:
    """Alone and beside others, the prompt cached or not, streamed or not, on another server."""
    path, members = KINDS[kind]
    noise = {"prompt": FACTS, "seed": None, "ignore_eos": True}
    with ThreadPoolExecutor(16) as pool:
        beside = [pool.submit(texts, server, "/v1/completions", body(noise, max_tokens=9 + number))
                  for number in range(crowd)]  # fmt: skip
        assert texts(server, path, body(members, stream=stream)) == fresh[kind]
        for each in beside:
            each.result()


def test_deterministic_servers_need_no_seed(default_model: Model) -> None:
    """Greedy answers are then the same too."""
    with serving_model(default_model, deterministic=True) as server:
        request = body({"prompt": FACTS * 3}, seed=None, temperature=0)
        first = texts(server, "/v1/completions", request)
        with ThreadPoolExecutor(8) as pool:
            again = list(pool.map(lambda _: texts(server, "/v1/completions", request), range(8)))
    assert again == [first] * 8
