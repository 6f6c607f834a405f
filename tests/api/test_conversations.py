"""/v1/conversations, as the official client drives it, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from headrace.config import Config
from tests.conftest import FakeServer
from tests.serving import Served

CONVERSATIONS = "/v1/conversations"
KEYS = {"server": {"api_keys": ("first-key", "second-key")}}


def user(text: str) -> Any:
    return {"role": "user", "content": text}


@pytest.fixture
def stored(fake_server: FakeServer, database_url: str) -> Served:
    return fake_server(config=Config.model_validate({**KEYS, "store": {"url": database_url}}))


@pytest.fixture
def client(stored: Served) -> Iterator[openai.OpenAI]:
    with stored.client("first-key", is_strict=True) as client:
        yield client


@pytest.fixture
def server(fake_server: FakeServer) -> Served:
    return fake_server()


def refused(server: Served, path: str, body: object = None, *, method: str = "POST") -> dict[str, Any]:
    """The error of a request that is a 400."""
    response = server.get(path) if method == "GET" else server.post(path, body)
    assert response.status_code == 400, response.text
    error: dict[str, Any] = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    return error


def test_conversations_are_found_by_what_was_said(stored: Served, client: openai.OpenAI) -> None:
    river = client.conversations.create(items=[user("Name a river.")], metadata={"title": "Water"})
    client.conversations.create(items=[user("Name a mountain.")])
    with stored.client("second-key") as other:
        other.conversations.create(items=[user("Name a river.")])

    def found(search: str) -> list[str]:
        page = client.get(f"{client.base_url}conversations", cast_to=object,
                          options={"params": {"search": search}})  # fmt: skip
        return [one["id"] for one in page["data"]]  # type: ignore[index]

    assert found("RIVER") == found("river water") == [river.id]
    assert found("river mountain") == []
    assert len(found("name")) == len(found("")) == 2
    first = {"Authorization": "Bearer first-key"}
    many = stored.get(f"{CONVERSATIONS}?search={'+'.join('abcdefghi')}", first)
    assert (many.status_code, many.json()["error"]["param"]) == (400, "search")
    long = stored.get(f"{CONVERSATIONS}?search={'x' * 201}", first)
    assert (long.status_code, long.json()["error"]["param"]) == (400, "search")


def test_conversation_lives_as_the_official_client_expects(client: openai.OpenAI) -> None:
    made = client.conversations.create(items=[user("hi")], metadata={"topic": "tides"})
    assert made.id.startswith("conv_")
    assert client.conversations.retrieve(made.id) == made
    changed = client.conversations.update(made.id, metadata={"topic": "moons"})
    assert changed.metadata == {"topic": "moons"}
    assert client.conversations.update(made.id, metadata=None).metadata == {}
    gone = client.conversations.delete(made.id)
    assert (gone.id, gone.object, gone.deleted) == (made.id, "conversation.deleted", True)
    with pytest.raises(openai.NotFoundError) as caught:
        client.conversations.retrieve(made.id)
    assert caught.value.code == "conversation_not_found"


def test_conversation_needs_no_body(server: Served) -> None:
    made = server.http.post(CONVERSATIONS)
    assert (made.status_code, made.json()["metadata"]) == (200, {}), made.text


UNKNOWN_ITEM = {
    "role": "user",
    "content": [{"type": "input_text", "text": "hi", "mood": "good"}],
    "urgency": 5,
}
OF_ITEM = "items.0.content.0.mood, items.0.urgency, "


@pytest.mark.parametrize(
    ("path", "members", "wanted"),
    [
        ("", {"items": [UNKNOWN_ITEM]}, OF_ITEM + "extra"),
        ("", {"items": [user("hi")], "metadata": {"a": "b"}}, "extra"),
        ("/{id}", {"metadata": {"a": "b"}}, "extra"),
        ("/{id}/items", {"items": [UNKNOWN_ITEM]}, OF_ITEM + "extra"),
    ],
)
def test_unknown_members_are_named_and_a_strict_request_with_them_refused(
    server: Served, path: str, members: dict[str, Any], wanted: str
) -> None:
    target = CONVERSATIONS + path.format(id=server.post(CONVERSATIONS, {}).json()["id"])
    answered = server.post(target, {**members, "extra": {}})
    assert answered.status_code == 200, answered.text
    assert answered.headers["x-headrace-ignored"] == wanted
    strict = server.post(target, {**members, "extra": {}}, headers={"X-Headrace-Strict": "true"})
    assert (strict.status_code, strict.json()["error"]["param"]) == (400, wanted.partition(", ")[0])
    if wanted == "extra":
        assert "x-headrace-ignored" not in server.post(target, members).headers


def test_items_are_added_listed_fetched_and_taken_out(client: openai.OpenAI) -> None:
    id = client.conversations.create().id
    assert list(client.conversations.items.list(id)) == []
    sent: list[Any] = [
        user("What is 6 times 7?"),
        {"type": "function_call", "call_id": "call_1", "name": "times", "arguments": '{"a": 6, "b": 7}'},
        {"type": "function_call_output", "call_id": "call_1", "output": "42"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "42.", "annotations": []}]},
    ]
    added = client.conversations.items.create(id, items=sent, include=["message.output_text.logprobs"])
    assert [item.type for item in added.data] == [
        "message", "function_call", "function_call_output", "message",
    ]  # fmt: skip
    assert (added.first_id, added.last_id) == (added.data[0].id, added.data[-1].id)
    pages = client.conversations.items.list(id, limit=1)
    assert [item.id for item in pages] == [item.id for item in reversed(added.data)]
    oldest_first = client.conversations.items.list(id, limit=3, order="asc")
    assert [item.id for item in oldest_first] == [item.id for item in added.data]
    call = added.data[1]
    assert call.id is not None
    assert client.conversations.items.retrieve(call.id, conversation_id=id) == call
    assert client.conversations.items.delete(call.id, conversation_id=id).id == id
    left = [item.type for item in client.conversations.items.list(id, order="asc")]
    assert left == ["message", "function_call_output", "message"]
    with pytest.raises(openai.NotFoundError):
        client.conversations.items.retrieve(call.id, conversation_id=id)


def test_another_key_sees_nothing(stored: Served, client: openai.OpenAI) -> None:
    id = client.conversations.create(items=[user("mine")]).id
    item = client.conversations.items.list(id).data[0].id
    assert item is not None
    with stored.client("second-key") as other:
        for attempt in (
            lambda: other.conversations.retrieve(id),
            lambda: other.conversations.update(id, metadata={}),
            lambda: other.conversations.delete(id),
            lambda: other.conversations.items.list(id),
            lambda: other.conversations.items.create(id, items=[user("theirs")]),
            lambda: other.conversations.items.retrieve(item, conversation_id=id),
            lambda: other.conversations.items.delete(item, conversation_id=id),
        ):
            with pytest.raises(openai.NotFoundError) as caught:
                attempt()
            assert caught.value.code == "conversation_not_found"
        assert other.get(CONVERSATIONS.removeprefix("/v1"), cast_to=object) == {
            "object": "list", "data": [], "first_id": "", "last_id": "", "has_more": False,
        }  # fmt: skip
    export = stored.get(f"{CONVERSATIONS}/{id}/export", {"Authorization": "Bearer second-key"})
    assert export.status_code == 404
    assert len(client.conversations.items.list(id).data) == 1


def test_owners_list_goes_page_by_page(server: Served) -> None:
    ids = [server.post(CONVERSATIONS, {}).json()["id"] for _ in range(5)]
    seen: list[str] = []
    query = "?limit=2"
    while True:
        page = server.get(CONVERSATIONS + query).json()
        seen += [entry["id"] for entry in page["data"]]
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
        if not page["has_more"]:
            break
        query = f"?limit=2&after={page['last_id']}"
    assert seen == ids[::-1]
    oldest_first = server.get(f"{CONVERSATIONS}?order=asc").json()["data"]
    assert [entry["id"] for entry in oldest_first] == ids


def test_export_is_one_document_with_all_items(server: Served) -> None:
    made = server.post(CONVERSATIONS, {"metadata": {"a": "b"}}).json()
    for start in range(0, 60, 20):
        items = [user(str(number)) for number in range(start, start + 20)]
        assert server.post(f"{CONVERSATIONS}/{made['id']}/items", {"items": items}).status_code == 200
    response = server.get(f"{CONVERSATIONS}/{made['id']}/export")
    assert response.headers["content-disposition"] == f'attachment; filename="{made["id"]}.json"'
    export = response.json()
    assert (export["object"], export["conversation"]) == ("conversation.export", made)
    assert [item["content"][0]["text"] for item in export["items"]] == list(map(str, range(60)))


def test_fork_begins_with_the_same_items_and_goes_its_own_way(server: Served) -> None:
    made = server.post(CONVERSATIONS, {"items": [user("a"), user("b"), user("c")]}).json()["id"]
    items = server.get(f"{CONVERSATIONS}/{made}/items?order=asc").json()["data"]
    body = {"item_id": items[1]["id"], "metadata": {"branch": "second"}}
    fork = server.post(f"{CONVERSATIONS}/{made}/fork", body)
    assert (fork.status_code, fork.json()["metadata"]) == (200, {"branch": "second"})
    assert server.get(f"{CONVERSATIONS}/{fork.json()['id']}/items?order=asc").json()["data"] == items[:2]
    assert server.get(f"{CONVERSATIONS}/{made}/items?order=asc").json()["data"] == items
    empty = server.post(f"{CONVERSATIONS}/{made}/fork", {"item_id": None}).json()["id"]
    assert server.get(f"{CONVERSATIONS}/{empty}/items").json()["data"] == []
    missing = server.post(f"{CONVERSATIONS}/{made}/fork", {"item_id": "msg_0"})
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "item_not_found")
    nothing = server.post(f"{CONVERSATIONS}/{made}/fork", {})
    assert (nothing.status_code, nothing.json()["error"]["param"]) == (400, "item_id")


def test_item_may_be_a_reference_to_one_that_is_stored(server: Served) -> None:
    first = server.post(CONVERSATIONS, {"items": [user("hi")]}).json()["id"]
    item = server.get(f"{CONVERSATIONS}/{first}/items").json()["data"][0]
    body = {"items": [user("before"), {"type": "item_reference", "id": item["id"]}]}
    second = server.post(CONVERSATIONS, body).json()["id"]
    copied = server.get(f"{CONVERSATIONS}/{second}/items").json()["data"][0]
    assert copied["content"] == item["content"]
    missing = server.post(CONVERSATIONS, {"items": [{"type": "item_reference", "id": "msg_0"}]})
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "item_not_found")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"items": [user("x")] * 21}, "items"),
        ({"items": "hi"}, "items"),
        ({"items": [{"role": "user"}]}, "items.0.content"),
        ({"items": [{"type": "nonsense"}]}, "items.0"),
        ({"metadata": {"k": 1}}, "metadata.k"),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k"),
        ({"metadata": {"k" * 65: "v"}}, None),
    ],
)
def test_faults_in_a_body_are_named(server: Served, body: object, param: str | None) -> None:
    error = refused(server, CONVERSATIONS, body)
    assert error["param"] == param or (param is None and error["param"].startswith("metadata.k"))


def test_limits_of_metadata_are_inclusive(server: Served) -> None:
    metadata = {f"{number:064}": "v" * 512 for number in range(16)}
    made = server.post(CONVERSATIONS, {"metadata": metadata})
    assert made.json()["metadata"] == metadata


def test_what_is_needed_is_asked_for(server: Served) -> None:
    id = server.post(CONVERSATIONS, {}).json()["id"]
    assert refused(server, f"{CONVERSATIONS}/{id}", {})["param"] == "metadata"
    assert refused(server, f"{CONVERSATIONS}/{id}/items", {})["param"] == "items"
    assert refused(server, f"{CONVERSATIONS}/{id}/items", {"items": []})["param"] == "items"


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=ten", "limit"),
        ("limit=", "limit"),
        ("order=up", "order"),
        ("after=msg_none", "after"),
        ("after=%00", "after"),
        ("include=everything", "include"),
        ("include[]=message.output_text.logprobs&include[]=x", "include"),
    ],
)
def test_faults_in_a_query_are_named(server: Served, query: str, param: str) -> None:
    id = server.post(CONVERSATIONS, {"items": [user("hi")]}).json()["id"]
    assert refused(server, f"{CONVERSATIONS}/{id}/items?{query}", method="GET")["param"] == param


def test_query_that_nothing_reads_is_named_and_in_strict_mode_refused(server: Served) -> None:
    response = server.get(f"{CONVERSATIONS}?limit=100&page=2")
    assert (response.status_code, response.headers["x-headrace-ignored"]) == (200, "page")
    strict = server.get(f"{CONVERSATIONS}?page=2", {"X-Headrace-Strict": "true"})
    assert (strict.status_code, strict.json()["error"]["param"]) == (400, "page")


@pytest.mark.parametrize("id", ["resp_1", "conv", "conv_", "CONV_1", "conv_%00", "conv_" + "a" * 200])
def test_what_cannot_be_a_conversations_id_is_a_400(server: Served, id: str) -> None:
    assert refused(server, f"{CONVERSATIONS}/{id}/items", method="GET")["param"] == "conversation_id"
    assert refused(server, f"{CONVERSATIONS}/{id}", {"metadata": {}})["param"] == "conversation_id"


def test_item_of_no_conversation_is_not_found(server: Served) -> None:
    id = server.post(CONVERSATIONS, {}).json()["id"]
    for item in ("msg_1", "x%00y"):
        response = server.get(f"{CONVERSATIONS}/{id}/items/{item}")
        assert (response.status_code, response.json()["error"]["code"]) == (404, "item_not_found")
