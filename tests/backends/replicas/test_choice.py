"""The choice between replicas, and what it is based on."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from headrace.backends.openai import OpenAIBackend
from headrace.backends.replicas import Replica
from headrace.backends.replicas.affinity import BOUND, MAX_MOVED, Moves, of_generation, of_relayed, ordered
from headrace.backends.replicas.replica import Load, load_in
from headrace.breaker import Breaker
from headrace.config import ProviderConfig
from headrace.finite import dumps
from headrace.relay_types import RelayRequest, Verbatim
from headrace.types import Conversation, GenerateRequest, Message, Texts


def replicas(number: int) -> list[Replica]:
    config = ProviderConfig(kind="openai", base_url="http://127.0.0.1:1/v1")
    backend = OpenAIBackend("pool", config, None)
    return [Replica(f"http://{index}/v1", backend, Breaker(lambda: 0.0)) for index in range(number)]


def first(members: Sequence[Replica], affinity: bytes) -> Replica:
    return ordered(members, affinity)[0]


def test_a_replica_that_leaves_moves_only_its_own_requests() -> None:
    members = replicas(4)
    before = {key: first(members, key) for key in (b"%d" % number for number in range(400))}
    shares = Counter(replica.name for replica in before.values())
    assert all(60 < share < 140 for share in shares.values()), shares
    after = {key: first(members[1:], key) for key in before}
    moved = {key for key in before if before[key] is not after[key]}
    assert moved == {key for key in before if before[key] is members[0]}


def test_no_replica_gets_more_than_its_bound() -> None:
    members = replicas(3)
    for number in range(1, 61):
        first(members, b"all the same").num_active += 1
        bound = math.ceil(BOUND * number / 3)
        assert max(one.num_active for one in members) <= bound


def test_a_conversation_that_had_to_move_stays_where_it_went() -> None:
    members, moves = replicas(3), Moves()
    preferred, other, _ = ordered(members, b"a")
    preferred.num_active = 3
    assert moves.ordered(members, b"a")[0] is other
    moves.record(members, b"a", other)
    preferred.num_active = 0
    assert moves.ordered(members, b"a")[0] is other
    assert moves.ordered(members, b"a")[1] is preferred
    other.num_active = 3
    assert moves.ordered(members, b"a")[0] is preferred, "the bound counts here, too"
    moves.record(members, b"a", preferred)
    other.num_active = 0
    assert moves.ordered(members, b"a")[0] is preferred


def test_moves_are_forgotten_the_oldest_first() -> None:
    members, moves = replicas(2), Moves()
    for number in range(2 * MAX_MOVED + 2):
        for one in members:  # one of them is not the preferred one
            moves.record(members, b"%d" % number, one)
    assert len(moves._moved) <= MAX_MOVED
    assert moves.ordered(members, b"0") == ordered(members, b"0")


def test_requests_of_others_count() -> None:
    members = replicas(2)
    preferred = first(members, b"a")
    preferred.reports(Load(9, 3))
    assert first(members, b"a") is not preferred
    preferred.reports(None)
    assert first(members, b"a") is preferred


def test_the_fullest_come_last_but_not_never() -> None:
    members = replicas(3)
    for one in members:
        one.reports(Load(0, 0, 0.99))
    assert len(ordered(members, b"a")) == 3
    members[1].reports(Load(0, 0, 0.5))
    assert first(members, b"a") is members[1]


CHAT = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}]


def relayed(endpoint: str = "/chat/completions", **members: object) -> bytes:
    body = Verbatim(dumps({"model": "m", **members}).encode())
    return of_relayed(RelayRequest("openai", endpoint, body, "m", is_streamed=False), "m")


def test_a_chat_has_the_same_affinity_relayed_and_translated() -> None:
    messages = (Message("system", "Be kind."), Message("user", "hi"))
    request = GenerateRequest("m", Conversation(messages))
    assert of_generation(request) == relayed(messages=CHAT)
    in_parts = [CHAT[0], {"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    assert relayed(messages=in_parts) == relayed(messages=CHAT)
    keyed = GenerateRequest("m", Conversation(messages), advice={"prompt_cache_key": "k"})
    assert of_generation(keyed) == relayed(messages=CHAT, prompt_cache_key="k")


def test_later_turns_keep_it_and_steering_changes_it() -> None:
    later = [*CHAT, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "more"}]
    assert relayed(messages=later) == relayed(messages=CHAT)
    assert relayed(messages=CHAT[1:]) != relayed(messages=CHAT)
    assert relayed(messages=CHAT, steering={"ops": []}) != relayed(messages=CHAT)


@pytest.mark.parametrize(
    "members",
    [
        {"messages": None}, {"messages": "hi"}, {"messages": [1, None, {"role": 5, "content": {"a": 1}}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url"}, 7]}]},
        {}, {"prompt_cache_key": [1]},
    ],
)  # fmt: skip
def test_odd_bodies_have_some_affinity(members: dict[str, Any]) -> None:
    assert isinstance(relayed(**members), bytes)


@pytest.mark.parametrize("prompt", ["text", ["text", "other"], [1, 2, 3], [[1, 2]], [], None, {"a": 1}])
def test_prompts_of_completions_have_one(prompt: object) -> None:
    assert isinstance(relayed("/completions", prompt=prompt), bytes)
    assert of_generation(GenerateRequest("m", Texts(("text",)))) == relayed("/completions", prompt="text")


def test_loads_are_read_tolerantly() -> None:
    text = b"""# HELP vllm:num_requests_running x
vllm:num_requests_running{engine="0",model_name="a}b"} 2.0
vllm:num_requests_running{engine="1",model_name="a"} 1.0
vllm:num_requests_waiting{engine="0",model_name="a"} 4.0
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:kv_cache_usage_perc{engine="1"} 0.5
vllm:num_requests_waiting_by_reason{reason="x"} 9.0
"""
    assert load_in(text) == Load(7, 4, 0.5)
    assert load_in(b"sglang:num_running_reqs 3\nsglang:num_queue_reqs 1\n") == Load(4, 1, None)
    assert load_in(b"up 1\nvllm:num_requests_running e-+\n") is None


@pytest.mark.parametrize("number", ["1e999", "1e300", "-1", "-1e999"])
def test_numbers_that_cannot_be_are_not_believed(number: str) -> None:
    metrics = f"vllm:num_requests_running {number}\nvllm:kv_cache_usage_perc {number}\n"
    assert load_in(metrics.encode()) is None
    assert load_in(f"{metrics}vllm:num_requests_waiting 2\n".encode()) == Load(2, 2, None)
