"""What is counted, under which names, and who may read it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from headrace.backends.fake import FakeBackend
from headrace.callers import CALLER, Principal
from headrace.config import Config
from headrace.errors import EngineFailed, Overloaded
from headrace.gateway.lifetime import Tally
from headrace.metering.metrics import MAX_SERIES, OTHER, Metrics
from headrace.types import Finished, Started, Usage
from tests.conftest import FakeServer
from tests.metering.scrape import Scrape, scrape
from tests.serving import Served, eventually

CHAT = "/v1/chat/completions"
OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


def hi(model: str = "fake", **members: object) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}], **members}


def test_a_request_is_counted_once_with_its_tokens(fake_server: FakeServer) -> None:
    end = Finished(0, "stop", Usage(7, 3, cached_tokens=2, reasoning_tokens=1))
    server = fake_server(FakeBackend(["a", "b", end]))
    for stream in (False, True):
        assert server.post(CHAT, hi(stream=stream)).status_code == 200
    found = scrape(server)
    assert found.get("headrace_requests_total", provider="fake", model="fake", status="200") == 2
    assert found.get("headrace_request_duration_seconds_count", provider="fake", model="fake") == 2
    tokens = {kind: found.get("headrace_tokens_total", model="fake", kind=kind)
              for kind in ("prompt", "completion", "cached", "reasoning")}  # fmt: skip
    assert tokens == {"prompt": 14, "completion": 6, "cached": 4, "reasoning": 2}
    assert found.get("headrace_key_requests_total", key="anonymous", status="200") == 2
    assert found.get("headrace_requests_active") == 0
    assert found.get("headrace_store_up") == 1


def test_errors_are_counted_by_status_and_unknown_models_make_no_series(fake_server: FakeServer) -> None:
    server = fake_server(
        FakeBackend([], refusal=Overloaded("full")),
        FakeBackend(["x"], error=EngineFailed("no"), name="other", id="other"),
    )
    assert server.post(CHAT, hi()).status_code == 503
    assert server.post(CHAT, hi("other")).status_code == 500
    for number in range(20):
        assert server.post(CHAT, hi(f"none-{number}")).status_code == 404
    found = scrape(server)
    assert found.get("headrace_requests_total", status="503") == 1
    assert found.get("headrace_requests_total", provider="other", status="500") == 1
    assert found.get("headrace_requests_total", status="404") == 20
    assert {labels["model"] for labels in found.labels("headrace_requests_total")} == {"", "other"}


def test_names_that_callers_choose_make_a_bounded_number_of_series() -> None:
    metrics = Metrics()
    for number in range(MAX_SERIES + 50):
        CALLER.set(Principal(f"key-{number}", name=f"name {number}"))
        metrics.record(Tally("generate", "m", f"key-{number}", provider="p", served=f"m-{number}"))
    found = Scrape(metrics.text().decode())
    assert len(found.labels("headrace_requests_total")) == MAX_SERIES + 1
    assert found.get("headrace_requests_total", model=OTHER) == 50
    assert found.get("headrace_key_requests_total", key=OTHER) == 50
    assert {"key": "key-1", "name": "name 1"} in found.labels("headrace_key_info")
    assert len(found.labels("headrace_key_info")) == MAX_SERIES


@pytest.mark.parametrize("started", [None, Started(0, 0.1, 0.2)])
def test_times_that_a_backend_does_not_report_are_not_zero(started: Started | None) -> None:
    """llama.cpp does not say when it began to compute."""
    metrics = Metrics(local={"here"})
    tally = Tally("generate", "m", provider="here", served="m", usage=Usage(3, 8), started=started)
    tally.reasons, tally.decode_s = ["stop"], [0.7 if started else 0.0]
    metrics.record(tally)
    found = Scrape(metrics.text().decode())
    for name in ("request_decode_time_seconds", "request_time_per_output_token_seconds"):
        assert found.get(f"vllm:{name}_count") == (0 if started is None else 1)


def test_requests_to_a_route_are_counted_by_who_answered(fake_server: FakeServer) -> None:
    full = FakeBackend([], refusal=Overloaded("full"), name="far")
    config = Config.model_validate(
        {"routes": {"either": {"targets": ["far:fake", "near:fake"]}},
         "providers": {name: {"kind": "fake"} for name in ("far", "near")}}
    )  # fmt: skip
    server = fake_server(full, FakeBackend(["x"], name="near"), config=config)
    for model in ("either", "either", "near:fake"):
        assert server.post(CHAT, hi(model)).status_code == 200
    found = scrape(server)
    assert found.get("headrace_route_requests_total", route="either", provider="near", status="200") == 2
    assert found.get("headrace_route_requests_total") == 2
    assert found.get("headrace_attempts_total", provider="near") == 5
    assert found.get("headrace_breaker_state", target="far:fake", state="closed") == 1


def test_who_may_read_the_metrics(fake_server: FakeServer) -> None:
    def status(server: Served, key: str) -> int:
        return server.get("/metrics", {"Authorization": f"Bearer {key}"}).status_code

    keyed = fake_server(config=Config.model_validate({"server": {"api_keys": ["k"]}}))
    assert (status(keyed, "k"), status(keyed, "x")) == (200, 401)
    administered = fake_server(
        config=Config.model_validate({"server": {"api_keys": ["k"], "admin_keys": ["boss"]}})
    )
    assert [status(administered, key) for key in ("boss", "k", "x")] == [200, 403, 401]


def test_the_engine_reports_under_the_names_of_vllm(server: Served) -> None:
    before = scrape(server)
    prompt = "The metrics of an engine are read by machines. " * 20
    answer = server.post(
        "/v1/completions", {"model": "smollm2-135m-instruct", "prompt": prompt, "max_tokens": 8}
    )
    again = server.post(
        "/v1/completions", {"model": "smollm2-135m-instruct", "prompt": prompt, "max_tokens": 8}
    )
    usage = answer.json()["usage"]
    # the first finds some tokens, too, if the prompt of an earlier test begins alike
    first, second = (one.json()["usage"]["prompt_tokens_details"]["cached_tokens"] for one in (answer, again))
    cached = first + second
    assert second > 100
    after = scrape(server)

    def grown(name: str) -> float:
        return after.get(name, model_name="smollm2-135m-instruct") - before.get(
            name, model_name="smollm2-135m-instruct"
        )

    assert grown("vllm:prompt_tokens_total") == 2 * usage["prompt_tokens"]
    assert grown("vllm:generation_tokens_total") >= 16
    assert grown("vllm:prefix_cache_hits_total") == cached
    assert grown("vllm:prefix_cache_queries_total") == 2 * usage["prompt_tokens"]
    for name in ("time_to_first_token_seconds", "request_queue_time_seconds", "e2e_request_latency_seconds",
                 "request_time_per_output_token_seconds", "request_generation_tokens",
                 "request_inference_time_seconds"):  # fmt: skip
        assert grown(f"vllm:{name}_count") == 2, name
    assert grown("vllm:request_max_num_generation_tokens_sum") == 16
    assert (grown("vllm:request_params_n_sum"), grown("vllm:request_params_max_tokens_sum")) == (2, 16)
    computed = grown("vllm:request_prefill_kv_computed_tokens_sum")
    assert (
        computed
        == 2 * usage["prompt_tokens"] - cached
        == grown("vllm:prompt_tokens_total") - grown("vllm:prompt_tokens_cached_total")
    )
    by_source = "vllm:prompt_tokens_by_source_total"
    assert (
        after.get(by_source, source="local_compute") - before.get(by_source, source="local_compute")
        == computed
    )
    assert 2 <= grown("vllm:inter_token_latency_seconds_count") <= 14  # fewer where drafts are accepted
    steps = grown("vllm:iteration_tokens_total_count")
    assert steps == grown("headrace_engine_steps_total")
    assert grown("vllm:iteration_tokens_total_sum") == grown("headrace_engine_step_tokens_total") >= computed
    cache = next(labels for labels in after.labels("vllm:cache_config_info"))
    assert int(cache["block_size"]) * int(cache["num_gpu_blocks"]) > 1000
    assert grown("vllm:request_success_total") == 2
    assert after.get("vllm:request_success_total", finished_reason="length") > 0
    eventually(lambda: scrape(server).get("vllm:num_requests_running") == 0)
    assert scrape(server).get("vllm:kv_cache_usage_perc") == 0
    assert scrape(server).get("headrace_engine_stalled_seconds") == 0


def test_a_reader_who_leaves_is_counted_with_the_tokens_so_far(server: Served) -> None:
    body = hi("smollm2-135m-instruct", stream=True, max_tokens=400, ignore_eos=True)
    before = scrape(server)
    with server.http.stream("POST", CHAT, json=body) as answer:
        lines = answer.iter_lines()
        seen = sum(1 for _ in zip(range(30), lines, strict=False))
        assert seen == 30
    name, labels = "headrace_requests_total", {"status": "499"}
    eventually(lambda: scrape(server).get(name, **labels) == before.get(name, **labels) + 1)
    after = scrape(server)
    written = after.get("headrace_tokens_total", kind="completion")
    assert 5 < written - before.get("headrace_tokens_total", kind="completion") < 400
    assert after.get("vllm:request_success_total", finished_reason="abort") > 0


def test_the_documentation_lists_every_metric_and_no_other(server: Served) -> None:
    documented = set(re.findall(r"`((?:vllm:|headrace_)\w+)", OPERATIONS.read_text()))
    names = {name for name in scrape(server).names if name.startswith(("vllm:", "headrace_"))}
    reported = {name.removesuffix("_total") for name in names}
    assert {name.removesuffix("_total") for name in documented} == reported
