"""What /metrics says of steered and probed requests."""

from __future__ import annotations

from tests.metering.scrape import scrape
from tests.serving import Served
from tests.steering.serving import SAE, VECTOR

MODEL = "smollm2-135m-instruct"


def ask(served: Served, **members: object) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, **members}
    answered = served.post("/v1/chat/completions", body)
    assert answered.status_code == 200, answered.text


def test_steered_and_probed_requests_are_counted(steered: Served) -> None:
    steering = {"ops": [{"vector": VECTOR, "value": 1}]}
    made = steered.post("/v1/steering/profiles", {"name": "counted", "steering": steering})
    assert made.status_code == 200, made.text
    before = scrape(steered)
    ask(steered)
    ask(steered, steering=steering)
    ask(steered, steering={"profile": "counted", "sweep": [0.5, 1]})
    ask(steered, probe={"sae": SAE, "top_k": 1, "require": "all"})
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
