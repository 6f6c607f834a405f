"""Several servers under one name: who gets a request, and who answers when that one fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from headrace.cli.top import Change, read, replicas
from tests.api.relays import CHUNK, STREAM, WHOLE
from tests.backends.replicas.scripts import BROKEN, Pool, pool
from tests.serving import eventually
from tests.upstream import Answer, answer, sse

ERROR = {"error": {"message": "no", "code": "x"}}
FAILURES = [BROKEN, answer(ERROR, status=500), answer(ERROR, status=503), answer(ERROR, status=429)]
NAMES = ["broken", "500", "503", "429"]


@pytest.fixture(scope="module")
def shared() -> Iterator[Pool]:
    with pool() as found:
        yield found


@pytest.fixture
def three(shared: Pool) -> Pool:
    """All of them answer, and are thought well of."""
    shared.reset(STREAM)
    for replica in shared.backend.members:
        replica.breaker.close()
    eventually(lambda: shared.states() == ["ready"] * 3, within_s=60)
    return shared


def test_what_begins_alike_goes_to_the_same_replica_and_the_rest_is_spread(three: Pool) -> None:
    preferred = Counter(three.preferred(f"system {number}") for number in range(24))
    assert len(preferred) == 3, preferred
    for _ in range(3):
        assert three.preferred("system 1", question="hi") == three.preferred("system 1", question="hi")
    by_key = {three.preferred(f"other {number}", prompt_cache_key="k") for number in range(6)}
    assert len(by_key) == 1, "the key counts instead of the text"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
@pytest.mark.parametrize("failure", FAILURES, ids=NAMES)
def test_a_failure_before_the_first_byte_leads_to_the_next(three: Pool, failure: Answer, path: str) -> None:
    body = {"model": "pool:m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    if path == "/v1/responses":
        body = {"model": "pool:m", "input": "hi", "store": False}
    assert three.served.post(path, body).status_code == 200
    (first,) = three.reached()
    three.reset(STREAM if path != "/v1/chat/completions" else answer(WHOLE))
    three.upstreams[first].chooses = lambda _: failure
    answered = three.served.post(path, body)
    assert (answered.status_code, "Gr" in answered.text) == (200, True), answered.text
    reached = set(three.reached())  # a pooled connection that breaks is tried once more by the client itself
    assert first in reached
    assert len(reached) == 2, "one after the other, and no third"


def test_after_a_first_byte_no_other_replica_gets_the_request(three: Pool) -> None:
    first = three.preferred("s")
    three.reset(STREAM)
    three.upstreams[first].chooses = lambda _: Answer(pieces=sse(CHUNK), cut=True)
    broken = three.chat("s")
    assert broken.text.count("delta") == 1
    assert "provider_error" in broken.text
    assert three.reached() == [first]


def test_a_refusal_is_the_answer(three: Pool) -> None:
    three.reset(answer(ERROR, status=400))
    assert three.chat("s").status_code == 400
    assert len(three.reached()) == 1


def test_a_request_that_breaks_replicas_is_not_sent_to_all_of_them(three: Pool) -> None:
    three.reset(answer(ERROR, status=500))
    assert three.chat("s").status_code == 502
    assert len(three.reached()) == 2


def test_a_replica_that_is_down_gets_no_requests_until_it_answers(three: Pool) -> None:
    first = three.preferred("s")
    index = list(three.upstreams).index(first)
    three.upstreams[first].always("/ready", answer({"status": "draining"}, status=503))
    eventually(lambda: three.states()[index] == "unreachable", within_s=60)
    assert three.preferred("s") != first
    three.upstreams[first].always("/ready", answer({"status": "ok"}))
    eventually(lambda: three.states()[index] == "ready", within_s=60)
    assert three.preferred("s") == first


def test_a_replica_whose_cache_is_full_is_passed_over(three: Pool) -> None:
    first = three.preferred("full")
    replica = next(one for one in three.backend.members if one.name == first)
    text = b'vllm:kv_cache_usage_perc{model_name="m"} 0.99\nvllm:num_requests_running{model_name="m"} 0.0\n'
    three.upstreams[first].always("/metrics", Answer(pieces=[text]))
    watch = three.backend._watches[replica]
    watch._no_metrics_until = 0.0  # it had none before
    with replica.busy():
        eventually(lambda: replica.is_full, within_s=60)
        assert three.preferred("full") != first
    three.upstreams[first].always("/metrics", answer(ERROR, status=404))
    eventually(lambda: not replica.is_full, within_s=60)


def test_an_administrator_drains_a_replica(three: Pool) -> None:
    first = three.preferred("s")
    named = {"provider": "pool", "replica": first}
    drained = three.served.post("/v1/admin/replicas/drain", named).json()
    assert (drained["id"], drained["state"], drained["active"]) == (first, "draining", 0)
    assert three.preferred("s") != first
    assert three.served.post("/v1/admin/replicas/resume", named).json()["state"] == "ready"
    assert three.preferred("s") == first
    listed = three.served.get("/v1/admin/replicas").json()["data"]
    assert [entry["id"] for entry in listed] == list(three.upstreams)
    unknown = three.served.post("/v1/admin/replicas/drain", {"provider": "pool", "replica": "x"})
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (404, "replica")
    unknown = three.served.post("/v1/admin/replicas/drain", {"provider": "x", "replica": first})
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (404, "provider")


def test_when_none_takes_requests_the_answer_says_so(three: Pool) -> None:
    for name in three.upstreams:
        three.backend.drain(name, is_drained=True)
    refused = three.chat("s")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert "none of the 3 replicas of pool" in refused.json()["error"]["message"]
    for name in three.upstreams:
        three.backend.drain(name, is_drained=False)


def test_metrics_and_top_show_them(three: Pool) -> None:
    first = three.preferred("s")
    text = three.served.get("/metrics").text
    assert f'headrace_replica_state{{provider="pool",replica="{first}",state="ready"}} 1.0' in text
    assert f'headrace_replica_requests_total{{provider="pool",replica="{first}"}}' in text
    snapshot = read(text, 1.0)
    rows = list(replicas(Change(snapshot, snapshot)))
    assert [row[:4] for row in rows] == [("pool", name, "ready", "0") for name in three.upstreams]


def test_embeddings_and_reranking_go_on_with_another_replica(three: Pool) -> None:
    vectors = {"data": [{"index": 0, "embedding": [1.0, 0.0]}], "usage": {"prompt_tokens": 1}}
    three.reset(answer(vectors))
    three.backend.members[0].is_reachable = False
    body = {"model": "pool:m", "input": ["text"], "encoding_format": "float", "dimensions": 2}
    assert three.served.post("/v1/embeddings", body).status_code == 200
    three.reset(answer({"results": [{"index": 0, "relevance_score": 0.5}], "usage": {"total_tokens": 1}}))
    body = {"model": "pool:m", "query": "q", "documents": ["d"]}
    assert three.served.post("/v1/rerank", body).status_code == 200
