"""Keys that administrators make: what they open, for how long, and what they may do."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from headrace.app import create_app
from headrace.backends.fake import FakeBackend
from headrace.config import Config
from headrace.types import Finished, Usage
from tests.serving import Served, serving

KEYS = "/v1/admin/keys"
CHAT = "/v1/chat/completions"
BOSS = {"Authorization": "Bearer boss"}


@pytest.fixture
def server() -> Iterator[Served]:
    config = Config.model_validate({"server": {"admin_keys": ["boss"], "api_keys": ["old"]}})
    end = Finished(0, "stop", Usage(10, 5, cached_tokens=4))
    backends = [FakeBackend(["x", end], id="small"), FakeBackend(["y"], id="large", name="other")]
    with serving(create_app(config, backends)) as served:
        yield served


def create(server: Served, **members: object) -> dict[str, str]:
    answer = server.post(KEYS, {"name": "n", **members}, headers=BOSS)
    assert answer.status_code == 200, answer.text
    made: dict[str, str] = answer.json()
    return made


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def ask(server: Served, key: str, model: str = "small", **members: object) -> tuple[int, str | None]:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **members}
    answer = server.post(CHAT, body, headers=bearer(key))
    return answer.status_code, answer.json().get("error", {}).get("code")


def test_a_key_works_until_it_is_revoked(server: Served) -> None:
    made = create(server, name="laptop", owner="ann")
    assert ask(server, made["value"]) == (200, None)
    assert server.get("/v1/models", {"x-api-key": made["value"]}).status_code == 200
    found = server.get(f"{KEYS}/{made['id']}", BOSS).json()
    assert found == {name: value for name, value in made.items() if name != "value"}
    listed = server.get(KEYS, BOSS)
    assert listed.json()["data"] == [found]
    assert made["value"] not in listed.text
    revoked = server.http.delete(f"{KEYS}/{made['id']}", headers=BOSS).json()
    assert revoked["revoked_at"] is not None
    assert ask(server, made["value"]) == (401, "invalid_api_key")
    assert ask(server, "old") == (200, None)  # configured keys keep working


def test_a_rotated_key_keeps_its_conversations(server: Served) -> None:
    made = create(server)
    conversation = server.post("/v1/conversations", {}, headers=bearer(made["value"])).json()["id"]
    new = server.post(f"{KEYS}/{made['id']}/rotate", {}, headers=BOSS).json()["value"]
    path = f"/v1/conversations/{conversation}"
    assert server.get(path, bearer(made["value"])).status_code == 401
    assert server.get(path, bearer(new)).status_code == 200
    other = create(server)["value"]
    assert server.get(path, bearer(other)).status_code == 404


def test_a_key_expires(server: Served) -> None:
    assert ask(server, create(server, expires_at=int(time.time()) + 3600)["value"]) == (200, None)
    assert ask(server, create(server, expires_at=int(time.time()) - 1)["value"]) == (401, "invalid_api_key")


def test_a_key_may_be_for_some_models_only(server: Served) -> None:
    key = create(server, models=["small", "gpt-*"])["value"]
    assert ask(server, key) == (200, None)
    assert ask(server, key, "large") == (403, "model_not_allowed")
    assert ask(server, key, "other:large") == (403, "model_not_allowed")
    assert ask(server, key, "gpt-5") == (404, "model_not_found")
    assert [entry["id"] for entry in server.get("/v1/models", bearer(key)).json()["data"]] == ["small"]
    assert server.get("/v1/models/large", bearer(key)).status_code == 403
    for path, body in (("/v1/embeddings", {"input": "x"}), ("/v1/completions", {"prompt": "x"}),
                       ("/tokenize", {"prompt": "x"}), ("/v1/responses", {"input": "x"})):  # fmt: skip
        assert server.post(path, {"model": "large", **body}, headers=bearer(key)).status_code == 403, path
        assert server.post(path, {"model": "small", **body}, headers=bearer(key)).status_code == 200, path


def test_settings_are_changed_one_by_one_and_count_at_once(server: Served) -> None:
    made = create(server, models=["small"], limits={"requests_per_minute": 5})
    assert ask(server, made["value"], "large")[0] == 403
    changed = server.post(f"{KEYS}/{made['id']}", {"models": None, "name": "new"}, headers=BOSS).json()
    assert (changed["models"], changed["name"], changed["limits"]["requests_per_minute"]) == ([], "new", 5)
    assert ask(server, made["value"], "large") == (200, None)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "n", "model": ["m"]}, "model"),
        ({"name": "n", "limits": {"tokens_per_minute": 0}}, "limits.tokens_per_minute"),
        ({"name": "n", "limits": {"tokens_per_minut": 5}}, "limits.tokens_per_minut"),
        ({"name": "n", "limits": {"total_cost": -1}}, "limits.total_cost"),
        ({"name": "n", "limits": {"total_cost": 1e-20}}, "limits.total_cost"),
        ({"name": "n", "expires_at": "tomorrow"}, "expires_at"),
        ({"name": "   "}, "name"),
        ({"name": "\u00a0\u200b\u202e"}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "n", "owner": "\x9b"}, "owner"),
        ({"name": "n", "models": ["small", " "]}, "models.1"),
        ({"name": "n", "models": ["*all"]}, "models.0"),
        ({"name": "n", "models": "m"}, "models"),
    ],
)
def test_a_wrong_setting_is_an_error_that_names_it(server: Served, body: object, param: str) -> None:
    answer = server.post(KEYS, body, headers=BOSS)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_only_administrators_see_keys(server: Served) -> None:
    key = create(server)["value"]
    for headers, status in ((bearer("old"), 403), (bearer(key), 403), ({}, 401)):
        assert server.get(KEYS, headers).status_code == status
        assert server.post(KEYS, {"name": "n"}, headers=headers).status_code == status
    assert server.get(f"{KEYS}/key_none", BOSS).json()["error"]["code"] == "key_not_found"


def test_usage_is_by_key_model_and_day(server: Served) -> None:
    ann, bob = create(server), create(server)
    for _ in range(2):
        assert ask(server, ann["value"])[0] == 200
    assert ask(server, bob["value"])[0] == 200

    def results(headers: dict[str, str], query: str = "") -> list[dict[str, object]]:
        found = server.get(f"/v1/usage{query}", headers)
        assert found.status_code == 200, found.text
        return [result for bucket in found.json()["data"] for result in bucket["results"]]

    (mine,) = results(bearer(ann["value"]))
    assert mine == {
        "object": "usage.result", "api_key_id": ann["id"], "api_key_name": ann["name"], "provider": "fake",
        "model": "small", "num_model_requests": 2, "input_tokens": 20, "output_tokens": 10,
        "input_cached_tokens": 8, "cost": 0.0,
    }  # fmt: skip
    assert {str(result["api_key_id"]) for result in results(BOSS)} == {ann["id"], bob["id"]}
    assert len(results(BOSS, f"?api_key_id={bob['id']}")) == 1
    assert results(BOSS, "?end_time=86400") == []
    assert results(BOSS, f"?page={int(time.time()) // 86400 * 86400}") == []
    assert server.get("/v1/usage?start_time=200000&end_time=5", BOSS).json()["error"]["param"] == "start_time"
    refused = server.get(f"/v1/usage?api_key_id={bob['id']}", bearer(ann["value"]))
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "admin_key_required")
    assert server.get("/v1/usage?start_time=x", BOSS).json()["error"]["param"] == "start_time"
