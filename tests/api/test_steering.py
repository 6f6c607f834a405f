"""Steering and probing over the API: which profile applies, what is refused, what comes back, in every
dialect.
"""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from headrace.backends.fake import FakeBackend
from headrace.models.catalog import Model
from tests.conftest import FakeServer
from tests.metering.scrape import scrape
from tests.serving import Served, events, eventually
from tests.steering.serving import SAE, VECTOR, copied, load, steerable

MODEL = "smollm2-135m-instruct"
HAPPY = {"vector": VECTOR, "value": 1.0}
CHAT = {
    "model": MODEL, "messages": [{"role": "user", "content": "How was your day?"}], "max_tokens": 6,
    "temperature": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def served(default_model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = copied(tmp_path_factory.mktemp("steering") / "root")
    with steerable(default_model, root) as served:
        load(served)
        for name, value in (("up", 1.0), ("down", -1.0), ("far", 2.0)):
            body = {"name": name, "steering": {"ops": [{**HAPPY, "value": value}]}}
            assert served.post("/v1/steering/profiles", body).status_code == 200
        yield served


@pytest.fixture
def default(served: Served) -> Iterator[None]:
    """Requests that name no profile get one."""
    assert served.http.put("/v1/steering/default", json={"profile": "far"}).status_code == 200
    yield
    assert served.http.delete("/v1/steering/default").status_code == 200


def ask(served: Served, headers: dict[str, str] | None = None, **members: Any) -> httpx2.Response:
    return served.post("/v1/chat/completions", {**CHAT, **members}, headers=headers)


def value_of(response: httpx2.Response) -> list[float]:
    """The values that were applied, from the receipt."""
    assert response.status_code == 200, response.text
    receipt = response.json()["choices"][0].get("steering")
    return [op["value"] for op in receipt["ops"]] if receipt else []


RECEIPT = {"receipt": True}
LONGEST = {"shape": [576], "data": base64.b64encode(struct.pack("<576f", *[3e38] * 576)).decode()}
UP, DOWN, FAR = 1.0, -1.0, 2.0


@pytest.mark.usefixtures("default")
@pytest.mark.parametrize(
    ("members", "headers", "expected"),
    [
        ({"steering": {"ops": [{**HAPPY, "value": 0.5}], **RECEIPT}, "model": f"{MODEL}@down"}, {}, [0.5]),
        ({"steering": {"ops": [{**HAPPY, "value": 0.5}], "profile": "up", **RECEIPT}}, {}, [UP, 0.5]),
        ({"steering": {"ops": [{**HAPPY, "value": 0.5}], **RECEIPT}, "profile": "up"}, {}, [UP, 0.5]),
        ({"steering": {"profile": "up", **RECEIPT}}, {"X-Steering-Profile": "down"}, [UP]),
        ({"steering": {**RECEIPT}}, {}, []),
    ],
)
def test_the_receipt_shows_what_applied(
    served: Served, members: dict[str, Any], headers: dict[str, str], expected: list[float]
) -> None:
    assert value_of(ask(served, headers, **members)) == expected


@pytest.mark.usefixtures("default")
def test_the_first_in_order_of_precedence_applies(served: Served) -> None:
    """By the fingerprint, which every steered answer has in its header."""

    def fingerprint(headers: dict[str, str] | None = None, **members: Any) -> str | None:
        response = ask(served, headers, **members)
        assert response.status_code == 200, response.text
        return response.headers.get("x-steering-fingerprint")

    up, down, far = (fingerprint(steering=name) for name in ("up", "down", "far"))
    assert len({up, down, far, None}) == 4
    header = {"X-Steering-Profile": "down"}
    assert fingerprint(header, steering="up", profile="far", model=f"{MODEL}@far") == up
    assert fingerprint(header, profile="up", model=f"{MODEL}@far") == up
    assert fingerprint(header, model=f"{MODEL}@up") == up
    assert fingerprint(header) == down
    assert fingerprint() == far
    assert fingerprint(steering=False) is None
    assert fingerprint(header, steering=False, profile="up") is None
    assert fingerprint(steering={"ops": [{**HAPPY, "value": 1.0}]}) == up


def test_a_profile_is_listed_as_a_model(served: Served) -> None:
    ids = [entry["id"] for entry in served.get("/v1/models").json()["data"]]
    assert {MODEL, f"{MODEL}@up", f"{MODEL}@down"} <= set(ids)
    assert served.get(f"/v1/models/{MODEL}@up").json()["id"] == f"{MODEL}@up"
    assert served.get(f"/v1/models/{MODEL}@nobody").status_code == 404
    refused = ask(served, model=f"{MODEL}@nobody")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "steering_unknown_profile")
    assert ask(served, model="nothing@up").status_code == 404


@pytest.mark.parametrize(
    ("members", "code", "param"),
    [
        ({"steering": "nobody"}, "steering_unknown_profile", "steering"),
        ({"profile": "nobody"}, "steering_unknown_profile", "profile"),
        ({"steering": {"ops": [{"sae": "x", "feature": 1, "value": 1}]}}, "steering_unknown_sae",
         "steering.ops[0].sae"),
        ({"steering": {"ops": [HAPPY, {"sae": SAE, "feature": 99999, "value": 1}]}},
         "steering_feature_out_of_range", "steering.ops[1].feature"),
        ({"steering": {"ops": [{"vector": "x", "value": 1}]}}, "steering_unknown_vector",
         "steering.ops[0].vector"),
        ({"steering": {"ops": [{**HAPPY, "layers": [3]}]}}, "steering_layer_mismatch",
         "steering.ops[0].layers"),
        ({"steering": {"ops": [{**HAPPY, "mode": "scale", "unit": "relative"}]}},
         "steering_mode_unsupported", "steering.ops[0].unit"),
        ({"steering": {"ops": [{**HAPPY, "value": 1e9}]}}, "steering_dose_exceeded",
         "steering.ops[0].value"),
        ({"steering": {"ops": [{"direction": LONGEST, "layers": [15], "value": 1}]}},
         "steering_dose_exceeded", "steering.ops[0].value"),
        ({"steering": {"sweep": [0, 1]}, "n": 3}, "invalid_value", "steering.sweep"),
        ({"probe": {"sae": "x", "top_k": 1}}, "steering_unknown_sae", "probe.sae"),
        ({"probe": {"sae": SAE, "features": [99999]}}, "steering_feature_out_of_range", "probe.features"),
        ({"profile": "up", "steering": {"profile": "down"}}, "invalid_value", "profile"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused(
    served: Served, members: dict[str, Any], code: str, param: str
) -> None:
    refused = ask(served, **members)
    assert refused.status_code == 400, refused.text
    assert (refused.json()["error"]["code"], refused.json()["error"]["param"]) == (code, param)


@pytest.mark.parametrize(
    "members",
    [
        {"steering": {"ops": []}},
        {"steering": "calm"},
        {"profile": "calm"},
        {"probe": {"sae": "s", "top_k": 1}},
    ],
)
def test_a_backend_that_cannot_steer_says_so(fake_server: FakeServer, members: dict[str, Any]) -> None:
    served = fake_server(FakeBackend(["Hi"]))
    body = {"model": "fake", "messages": [{"role": "user", "content": "hi"}]}
    refused = served.post("/v1/chat/completions", {**body, **members})
    expected = (
        "steering_unknown_profile"
        if members.get("steering") == "calm" or "profile" in members
        else "steering_unsupported"
    )
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, expected)
    assert served.post("/v1/chat/completions", {**body, "steering": False}).status_code == 200
    header = served.post("/v1/chat/completions", body, headers={"X-Steering-Profile": "calm"})
    assert header.status_code == 400


def test_a_sweep_is_as_many_answers(served: Served) -> None:
    answered = ask(served, steering={"ops": [HAPPY], "sweep": [-1, 0, 1], "receipt": True}).json()
    strengths = [
        choice["steering"]["ops"][0]["strength"] if choice.get("steering", {}).get("ops") else 0
        for choice in answered["choices"]
    ]
    assert strengths == [-1, 0, 1]
    alone = ask(served, steering=False).json()["choices"][0]["message"]["content"]
    assert answered["choices"][1]["message"]["content"] == alone


def probed(response: httpx2.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["choices"][0]["feature_activations"]["content"]
    return found


PROBE = {"sae": SAE, "features": [7], "top_k": 3}


def test_activations_are_aligned_with_tokens(served: Served) -> None:
    fresh: dict[str, Any] = {"messages": [{"role": "user", "content": "Which feature is the largest one?"}]}
    response = ask(served, probe={**PROBE, "require": "all"}, logprobs=True, **fresh)
    found = probed(response)
    usage = response.json()["usage"]
    assert [entry["position"] for entry in found] == list(range(usage["total_tokens"]))
    answer = found[usage["prompt_tokens"] :]
    assert [entry["token"] for entry in answer] == [
        entry["token"] for entry in response.json()["choices"][0]["logprobs"]["content"]
    ]
    for entry in found[1:-1]:
        assert list(entry["features"]) == ["7"]
        values = [feature["activation"] for feature in entry["top"]]
        assert values == sorted(values, reverse=True)
        assert len(values) == 3
        assert all(feature["label"] for feature in entry["top"])


def test_cached_tokens_are_stated(served: Served) -> None:
    long: dict[str, Any] = {"messages": [{"role": "user", "content": "Count these words: " + "word " * 60}]}
    first, second = (probed(ask(served, probe=PROBE, **long)) for _ in range(2))
    cached = [entry for entry in second if entry["cached"]]
    # the template's own beginning may have been cached before
    assert len(cached) >= 32 + sum(entry["cached"] for entry in first)
    assert all(not entry["top"] and not entry["features"] for entry in cached)
    again = probed(ask(served, probe={**PROBE, "require": "all"}, **long))
    assert not any(entry["cached"] for entry in again)
    assert len(again) == len(first) == len(second)


def numbers_of(entries: list[dict[str, Any]]) -> list[float]:
    top = [one["activation"] for entry in entries for one in entry["top"]]
    return top + [value for entry in entries for value in entry["features"].values()]


def without_numbers(entry: dict[str, Any]) -> dict[str, Any]:
    top = [{**one, "activation": None} for one in entry["top"]]
    return {**entry, "top": top, "features": list(entry["features"])}


def test_a_stream_has_the_same_activations(served: Served) -> None:
    probe = {**PROBE, "require": "all"}
    whole = probed(ask(served, probe=probe, seed=1))
    chunks = events(ask(served, probe=probe, seed=1, stream=True))
    streamed = [
        entry
        for chunk in chunks[:-1]
        for choice in chunk["choices"]
        for entry in choice.get("feature_activations", {"content": []})["content"]
    ]
    assert list(map(without_numbers, streamed)) == list(map(without_numbers, whole))
    # the product that reads them is rounded by where its operands lie in memory
    assert numbers_of(streamed) == pytest.approx(numbers_of(whole), rel=1e-5)
    assert sum("feature_activations" in chunk["choices"][0] for chunk in chunks[:-1]) >= 2


def test_a_stream_ends_with_the_receipt(served: Served) -> None:
    response = ask(served, stream=True, steering={"ops": [HAPPY], "receipt": "kl"})
    last = events(response)[-2]["choices"][0]
    assert last["finish_reason"] == "length"
    assert last["steering"]["fingerprint"] == response.headers["x-steering-fingerprint"]
    assert last["steering"]["tokens_steered"] > 6
    assert last["steering"]["kl"] > 0


def test_other_endpoints_steer_and_probe_too(served: Served) -> None:
    wishes: dict[str, Any] = {
        "steering": {"profile": "up", "receipt": True},
        "probe": PROBE,
        "model": MODEL,
    }
    chat = ask(served, **wishes)
    expected = chat.json()["choices"][0]["steering"]["fingerprint"]
    message = served.post("/v1/messages", {**wishes, "max_tokens": 6, "messages": CHAT["messages"]})
    assert message.json()["steering"]["fingerprint"] == expected
    assert message.json()["feature_activations"]["content"]
    answered = served.post("/v1/responses", {**wishes, "input": "How was your day?", "max_output_tokens": 6})
    assert answered.json()["steering"]["fingerprint"] == expected
    assert answered.json()["feature_activations"]["content"]
    for response in (message, answered):
        assert response.headers["x-steering-fingerprint"] == expected
    text = served.post("/v1/completions", {**wishes, "prompt": ["One", "Two"], "max_tokens": 3})
    assert all(choice["steering"]["ops"][0]["value"] == UP for choice in text.json()["choices"])


def test_streams_of_other_dialects_have_it_in_the_end(served: Served) -> None:
    wishes = {"steering": {"profile": "up", "receipt": True}, "probe": PROBE, "model": MODEL, "stream": True}
    frames = served.post("/v1/messages", {**wishes, "max_tokens": 6, "messages": CHAT["messages"]}).text
    assert '"type":"message_delta"' in frames
    assert '"feature_activations":{"content":[{' in frames.partition('"type":"message_delta"')[2]
    frames = served.post("/v1/responses", {**wishes, "input": "hi", "max_output_tokens": 6}).text
    assert '"fingerprint"' in frames.rpartition("event: response.incomplete")[2]


def test_validation_returns_a_receipt(served: Served) -> None:
    body = {"steering": {"ops": [{**HAPPY, "unit": "relative", "value": 0.2}]}}
    valid = served.post("/v1/steering/validate", body).json()
    assert valid["receipt"]["relative_dose"] == pytest.approx(0.2, abs=1e-3)
    refused = served.post("/v1/steering/validate", {"steering": "nobody"})
    assert refused.json()["error"]["code"] == "steering_unknown_profile"


@pytest.mark.parametrize(
    "apply", ["prompt", "generation", {"roles": ["assistant"]}, {"roles": ["user"]}], ids=str
)
def test_validation_has_tokens_for_every_scope(served: Served, apply: object) -> None:
    body = {"steering": {"ops": [HAPPY], "apply": apply}}
    valid = served.post("/v1/steering/validate", body)
    assert valid.status_code == 200, valid.text
    assert [op["value"] for op in valid.json()["receipt"]["ops"]] == [UP]


@pytest.mark.parametrize(
    ("steering", "param"),
    [
        ({"ops": [{"vector": VECTOR}]}, "profile.ops[0].value"),
        ({"ops": [HAPPY, {**HAPPY, "sae": SAE, "feature": 1}]}, "profile.ops[1]"),
        ({"ops": [{"direction": {"shape": [576], "data": "@"}, "layers": [15], "value": 1}]},
         "profile.ops[0].direction.data"),
        ({"ops": [HAPPY], "when": {"sae": SAE, "feature": 1}}, "steering.when.gt"),
    ],
)  # fmt: skip
def test_a_profile_that_no_request_could_use_is_refused(
    served: Served, steering: dict[str, Any], param: str
) -> None:
    name = {"name": "broken", "steering": steering}
    document = {"format": "headrace.steering.profile", "version": 1, "profile": name}
    for refused in (
        served.post("/v1/steering/profiles", name),
        served.post("/v1/steering/profiles/import", document),
        served.http.put("/v1/steering/profiles/up", json={"steering": steering}),
    ):
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
    assert served.get("/v1/steering/profiles/broken").status_code == 404


def test_a_vector_is_attached_at_its_own_layers(served: Served) -> None:
    path = f"/v1/vectors/{VECTOR}/attach"
    refused = served.post(path, {"layer": 3})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "layer")
    assert served.http.post(path).json()["is_attached"]


def test_features_are_found_and_described(served: Served) -> None:
    listed = served.get(f"/v1/saes/{SAE}/features?q=than&limit=3").json()
    assert listed["data"]
    assert all("than" in entry["label"] for entry in listed["data"])
    feature = served.get(f"/v1/saes/{SAE}/features/{listed['data'][0]['feature']}").json()
    assert feature["decoder_norm"] == pytest.approx(1, abs=1e-2)
    assert len(feature["neighbours"]) == 8
    assert served.get(f"/v1/saes/{SAE}/features/99999").status_code == 400
    assert served.get("/v1/saes/none/features").status_code == 404
    message = served.get(f"/v1/saes/{SAE}/features/none").json()["error"]["message"]
    assert message == "feature: a feature is a whole number"


@pytest.mark.parametrize("path", ["/v1/saes", "/v1/vectors", "/v1/steering/capabilities"])
def test_lists_are_of_the_model_that_the_query_names(served: Served, path: str) -> None:
    assert served.get(f"{path}?model={MODEL}").json() == served.get(path).json()
    refused = served.get(f"{path}?model=none")
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/v1/activations/stream?sae=none", None, 404, "sae"),
        ("/v1/activations", {"sae": "none", "input": "a"}, 404, "sae"),
        ("/v1/activations/top", {"sae": VECTOR, "input": "a"}, 404, "sae"),
        ("/v1/activations/compare", {"sae": "none", "a": {"input": "a"}, "b": {"input": "b"}}, 404, "sae"),
        ("/v1/activations", {"sae": SAE, "input": "a", "features": [99999]}, 400, "features"),
        ("/v1/activations/stream", {"sae": SAE, "input": "a", "features": [1, 99999]}, 400, "features"),
        ("/v1/chat/completions", {**CHAT, "probe": {"sae": SAE, "features": [99999]}}, 400, "probe.features"),
        (
            "/v1/chat/completions",
            {**CHAT, "probe": [{"sae": SAE, "features": [99999]}]},
            400,
            "probe[0].features",
        ),
    ],
)
def test_an_error_names_what_the_request_said(
    served: Served, path: str, body: dict[str, Any] | None, status: int, param: str
) -> None:
    refused = served.get(path) if body is None else served.post(path, body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (status, param)


def test_activations_of_texts(served: Served) -> None:
    read = served.post("/v1/activations", {"sae": SAE, "input": "One is more than two.", "top_k": 2}).json()
    content = read["feature_activations"]["content"]
    assert "".join(entry["token"] for entry in content) == "One is more than two."
    top = served.post(
        "/v1/activations/top", {"sae": SAE, "input": "One is more than two.", "limit": 4}
    ).json()
    assert [entry["max"] for entry in top["data"]] == sorted((e["max"] for e in top["data"]), reverse=True)
    texts = {
        "a": {"input": "One is larger than two, and more than three."},
        "b": {"input": "Raise an error."},
    }
    compared = served.post("/v1/activations/compare", {"sae": SAE, "limit": 5, **texts}).json()["data"]
    assert [abs(e["difference"]) for e in compared] == sorted(
        (abs(e["difference"]) for e in compared), reverse=True
    )
    messages = {"messages": [{"role": "user", "content": "hi"}]}
    assert served.post("/v1/activations", {"sae": SAE, **messages}).status_code == 200
    assert served.post("/v1/activations", {"sae": SAE}).status_code == 400


def test_statistics_come_from_what_probes_saw(served: Served) -> None:
    assert served.post("/v1/activations", {"sae": SAE, "input": "a " * 40}).status_code == 200
    seen = served.get(f"/v1/saes/{SAE}/statistics?limit=5").json()["data"]
    assert len(seen) == 5
    for entry in seen:
        statistics = entry["statistics"]
        assert 0 < statistics["active_share"] <= 1
        assert statistics["max"] >= statistics["mean"] > 0


def test_a_profile_is_exported_and_imported_where_its_files_are_the_same(served: Served) -> None:
    document = served.get("/v1/steering/profiles/up/export").json()
    assert set(document["requires"]) == {VECTOR}
    document["profile"]["name"] = "copy"
    assert served.post("/v1/steering/profiles/import", document).status_code == 200
    document["requires"] = {VECTOR: "other"}
    refused = served.post("/v1/steering/profiles/import", document)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "steering_unknown_sae")
    assert served.http.delete("/v1/steering/profiles/copy").status_code == 200
    assert served.get("/v1/steering/profiles/copy").status_code == 404


def test_a_vector_is_trained_over_the_api(served: Served) -> None:
    body = {"id": "trained", "positive": ["I love it so much.", "We are glad."],
            "negative": ["I hate it so much.", "We are sad."], "layers": [15]}  # fmt: skip
    made = served.post("/v1/vectors/train", body)
    assert made.status_code == 200, made.text
    assert (made.json()["layers"], made.json()["is_attached"]) == ([15], True)
    assert served.post("/v1/vectors/train", body).status_code == 400
    assert served.post("/v1/vectors/train", {**body, "overwrite": True}).status_code == 200
    assert served.get("/v1/vectors/trained.gguf").content[:4] == b"GGUF"
    assert ask(served, steering={"ops": [{"vector": "trained", "value": 1}]}).status_code == 200
    assert served.http.delete("/v1/vectors/trained").status_code == 200
    assert ask(served, steering={"ops": [{"vector": "trained", "value": 1}]}).status_code == 400
    refused = served.post("/v1/vectors/train", {**body, "id": SAE, "overwrite": True})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "id")
    unwritten = served.post("/v1/vectors", {"id": "y", "path": f"vectors/{SAE}.gguf"})
    assert unwritten.json()["error"]["code"] == "steering_file_refused"
    refused = served.post("/v1/vectors/train", {**body, "id": "x", "positive": [""]})
    assert refused.json()["error"]["param"] == "positive[0]"


def test_changes_need_an_administrator_and_are_there_at_the_next_start(
    default_model: Model, tmp_path: Any
) -> None:
    root = copied(tmp_path / "root")
    keys = {"api_keys": ["user"], "admin_keys": ["admin"]}
    user, admin = ({"Authorization": f"Bearer {key}"} for key in ("user", "admin"))
    profile = {"name": "up", "steering": {"ops": [HAPPY]}}
    with steerable(default_model, root, server=keys) as served:
        body = {"id": VECTOR, "path": "vectors/happy.gguf"}
        for path, content in (("/v1/vectors", body), ("/v1/steering/profiles", profile)):
            assert served.post(path, content).status_code == 401
            assert served.post(path, content, headers=user).status_code == 403
        served.http.headers.update(admin)
        load(served)
        assert served.post("/v1/steering/profiles", profile).status_code == 200
        assert served.get("/v1/vectors", headers=user).json()["data"]
        assert ask(served, user, steering="up").status_code == 200
    with steerable(default_model, root) as served:
        assert [entry["id"] for entry in served.get("/v1/saes").json()["data"]] == [SAE]
        assert ask(served, steering="up").headers["x-steering-fingerprint"]
        assert served.post(f"/v1/saes/{SAE}/detach").json()["attached_layers"] == []
        refused = ask(served, probe=PROBE)
        assert refused.json()["error"]["code"] == "steering_layer_mismatch"
        eventually(lambda: not served.gateway.num_active)


def test_what_the_configuration_attaches_is_attached_at_other_layers_at_the_next_start_too(
    served: Served,
) -> None:
    path, steering = f"/v1/saes/{SAE}", served.app.state.steering
    assert served.http.post(f"{path}/attach", json={"layer": 3}, timeout=600).json()["attached_layers"] == [
        3,
        15,
    ]
    library = served.backend.library(MODEL)
    assert library is not None

    def start() -> list[int]:
        """As a server with the option starts: it attaches the SAE, then what the database has."""
        library.detach(SAE)
        library.attach(SAE)
        asyncio.run_coroutine_threadsafe(steering.restore(served.backend, MODEL), served.loop).result()
        layers: list[int] = served.get(path).json()["attached_layers"]
        return layers

    assert start() == [3, 15]
    assert served.post(f"{path}/detach").json()["attached_layers"] == []
    assert start() == [15]  # as the option says
    assert served.http.post(f"{path}/attach").json()["attached_layers"] == [15]


@pytest.mark.parametrize(
    ("members", "headers"),
    [
        ({"steering": "calm"}, {}),
        ({"profile": "calm"}, {}),
        ({"steering": {"ops": []}}, {}),
        ({"probe": {"sae": "docs", "top_k": 1}}, {}),
        ({}, {"X-Steering-Profile": "calm"}),
    ],
)
@pytest.mark.parametrize(
    "path", ["/api/chat", "/api/generate", "/api/embed", "/api/embeddings", "/v1/embeddings", "/v1/rerank"]
)
def test_what_cannot_be_steered_refuses_it(
    served: Served, path: str, members: dict[str, Any], headers: dict[str, str]
) -> None:
    body = {"model": MODEL, "messages": CHAT["messages"], "prompt": "hi", "input": "hi", "query": "hi",
            "documents": ["ho"], "stream": False, "options": {"num_predict": 1}}  # fmt: skip
    refused = served.http.post(path, json={**body, **members}, headers=headers)
    assert refused.status_code == 400
    assert "has no steering" in refused.text
    assert served.http.post(path, json={**body, "steering": False}).status_code == 200


def test_activations_are_those_of_the_unsteered_model(served: Served) -> None:
    headers = {"X-Steering-Profile": "up"}
    refused = served.post("/v1/activations", {"sae": SAE, "input": "hi"}, headers=headers)
    assert refused.json()["error"]["code"] == "steering_unsupported"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {"prompt": "hi"}),
        ("/detokenize", {"tokens": [5, 6]}),
        ("/v1/messages/count_tokens", {"messages": CHAT["messages"]}),
        ("/v1/responses/input_tokens", {"input": "hi"}),
    ],
)
def test_tokens_of_a_persona_are_those_of_its_model(served: Served, path: str, body: dict[str, Any]) -> None:
    answers = [served.post(path, {**body, "model": model}) for model in (MODEL, f"{MODEL}@up")]
    assert [answer.status_code for answer in answers] == [200, 200], answers[1].text
    assert answers[0].json() == answers[1].json()


@pytest.mark.parametrize("named", [{"model": f"{MODEL}@up"}, {"steering": "up"}, {"profile": "up"}])
def test_a_summary_is_steered(served: Served, named: dict[str, Any]) -> None:
    before = scrape(served)
    body = {"model": MODEL, "input": "I lost my keys in Rome.", **named}
    response = served.post("/v1/responses/compact", body)
    assert response.status_code == 200, response.text
    after, name = scrape(served), "headrace_steered_requests_total"
    assert after.get(name, model=MODEL, profile="up") - before.get(name, model=MODEL, profile="up") == 1
    refused = served.post("/v1/responses/compact", {**body, "probe": {"sae": SAE, "top_k": 1}})
    assert refused.json()["error"]["param"] == "probe"
