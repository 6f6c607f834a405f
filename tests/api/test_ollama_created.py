"""Models that are made of served ones: POST /api/create and /api/copy, by Ollama's own client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest

from headrace.app import create_app
from headrace.backends.fake import FakeBackend
from headrace.config import Config
from headrace.errors import BadRequest
from headrace.gateway.routing import Preset
from headrace.types import Conversation, GenerateRequest, Message, Sampling, Texts
from headrace.wire.ollama.models import CreateBody, checked_name
from tests.conftest import FakeServer
from tests.serving import Served

QUESTION: list[Any] = [{"role": "user", "content": "Hi"}]
PIRATE: dict[str, Any] = {
    "model": "pirate",
    "from_": "fake",
    "system": "You are a pirate.",
    "parameters": {"temperature": 0.3, "num_predict": 7, "stop": ["a", "b"], "num_ctx": 4096},
    "messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me, arr."}],
    "license": "MIT",
}


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend(["Arr"])


@pytest.fixture
def server(fake_server: FakeServer, backend: FakeBackend) -> Served:
    return fake_server(backend)


@pytest.fixture
def client(server: Served) -> Iterator[ollama.Client]:
    with ollama.Client(host=server.url) as client:
        yield client


def spoken(backend: FakeBackend) -> list[tuple[str, str]]:
    """The messages of the last request."""
    return [(one.role, one.text) for one in backend.conversations[-1].messages]


def test_a_created_model_is_listed_described_used_and_deleted(
    client: ollama.Client, backend: FakeBackend
) -> None:
    steps = [one.status for one in client.create(**PIRATE, stream=True)]
    assert steps[-1] == "success"
    assert [one.model for one in client.list().models] == ["fake", "pirate"]
    shown = client.show("pirate")
    assert shown.parameters is not None
    assert [line.split() for line in shown.parameters.splitlines()] == [
        ["temperature", "0.3"], ["num_predict", "7"], ["stop", "a"], ["stop", "b"], ["num_ctx", "4096"],
    ]  # fmt: skip
    assert (shown.license, shown.details and shown.details.parent_model) == ("MIT", "fake")
    assert (shown.modelfile or "").startswith("FROM fake\nPARAMETER")
    assert client.chat(model="pirate:latest", messages=QUESTION).message.content == "Arr"
    assert spoken(backend) == [
        ("system", "You are a pirate."), ("user", "Who?"), ("assistant", "Me, arr."), ("user", "Hi"),
    ]  # fmt: skip
    sampling = backend.requests[-1].sampling
    assert (sampling.temperature, sampling.max_tokens, sampling.stop) == (0.3, 7, ("a", "b"))
    assert client.delete("pirate").status == "success"
    with pytest.raises(ollama.ResponseError) as caught:
        client.chat(model="pirate", messages=QUESTION)
    assert caught.value.status_code == 404


def test_a_request_says_more_than_its_model(client: ollama.Client, backend: FakeBackend) -> None:
    client.create(**PIRATE)
    own = [{"role": "system", "content": "You are a poet."}, *QUESTION]
    client.chat(model="pirate", messages=own, options={"temperature": 1.5})
    assert spoken(backend)[0] == ("system", "You are a poet.")
    assert len(spoken(backend)) == 4
    sampling = backend.requests[-1].sampling
    assert (sampling.temperature, sampling.max_tokens) == (1.5, 7)
    client.generate(model="pirate", prompt="Hi", system="Be brief.")
    assert spoken(backend)[0] == ("system", "Be brief.")


def test_it_is_a_model_under_openais_and_anthropics_dialects(server: Served, backend: FakeBackend) -> None:
    body = {**PIRATE, "from": "fake", "stream": False}
    del body["from_"]
    created = server.post("/api/create", body)
    assert created.json() == {"status": "success"}
    assert created.headers["x-headrace-ignored"] == "parameters.num_ctx"
    assert [model["id"] for model in server.get("/v1/models").json()["data"]] == ["fake", "pirate"]
    described = server.get("/v1/models/pirate").json()
    assert described["sampling_defaults"]["temperature"] == 0.3
    assert server.get("/v1/models/pirate/route").json()["candidates"][0]["model"] == "fake"
    sent = {"model": "pirate", "messages": QUESTION}
    assert server.post("/v1/chat/completions", sent).status_code == 200
    assert spoken(backend)[0] == ("system", "You are a pirate.")
    assert server.post("/v1/messages", {**sent, "max_tokens": 3}).status_code == 200
    assert spoken(backend)[0] == ("system", "You are a pirate.")
    assert backend.requests[-1].sampling.max_tokens == 3
    kept = server.post("/v1/responses", {"model": "pirate", "input": "Hi"}).json()
    again = {"model": "pirate", "input": "And?", "previous_response_id": kept["id"]}
    assert server.post("/v1/responses", again).status_code == 200
    assert [role for role, _ in spoken(backend)].count("system") == 1, "it is not stored"
    deleted = server.http.delete("/v1/models/pirate").json()
    assert deleted == {"id": "pirate", "object": "model", "deleted": True}
    assert server.get("/v1/models/pirate").status_code == 404


def test_a_copy_is_a_second_name(client: ollama.Client, backend: FakeBackend) -> None:
    assert client.copy("fake", "gpt-4o").status == "success"
    assert client.chat(model="gpt-4o", messages=QUESTION).message.content == "Arr"
    assert spoken(backend) == [("user", "Hi")]
    client.create(**PIRATE)
    client.copy("pirate", "captain")
    client.delete("pirate")
    client.chat(model="captain", messages=QUESTION)
    assert spoken(backend)[0] == ("system", "You are a pirate."), "a copy stands for itself"


def test_one_that_is_made_of_a_created_one_inherits(client: ollama.Client, backend: FakeBackend) -> None:
    client.create(**PIRATE)
    client.create(model="parrot", from_="pirate", system="You are a parrot.", parameters={"temperature": 0.9})
    client.chat(model="parrot", messages=QUESTION)
    assert spoken(backend)[:2] == [("system", "You are a parrot."), ("user", "Who?")]
    sampling = backend.requests[-1].sampling
    assert (sampling.temperature, sampling.max_tokens) == (0.9, 7)
    client.create(model="parrot", from_="fake")  # takes its place
    client.chat(model="parrot", messages=QUESTION)
    assert spoken(backend) == [("user", "Hi")]


@pytest.mark.parametrize(
    ("members", "status", "words"),
    [
        ({"from": None}, 400, "from: a model is needed"),
        (
            {"from": None, "files": {"a.gguf": "sha256:0"}},
            400,
            "files is not supported here: Files are served",
        ),
        ({"adapters": {"a": "sha256:0"}}, 400, "adapters is not supported"),
        ({"quantize": "q4_K_M"}, 400, "quantize is not supported"),
        ({"template": "{{ .Prompt }}"}, 400, "template is not supported"),
        ({"modelfile": "FROM fake"}, 400, "modelfile is not supported"),
        ({"from": "other"}, 404, "not found, try pulling it first"),
        ({"model": "fake"}, 400, "name of another model"),
        ({"model": "qwen3-8b"}, 400, "name of another model"),
        ({"model": "../x"}, 400, "is no name"),
        ({"model": None}, 400, "model: Field required"),
        ({"parameters": {"temperature": 9}}, 400, "parameters.temperature"),
        ({"parameters": {"mirostat": 1}}, 400, "mirostat"),
        ({"messages": [{"role": "user", "content": "x", "images": ["x"]}]}, 400, "messages.0.images.0"),
        ({"messages": [{"role": "nobody", "content": "x"}]}, 400, "messages.0.role"),
        ({"system": "x" * 1_000_001}, 400, "characters"),
        ({"parameters": {f"p{number}": number for number in range(70_000)}}, 400, "parameters"),
        ({"parameters": {"p" * 1_000_001: 1}}, 400, "characters"),
        ({"parameters": {"p": [[1] * 1_000] * 300}}, 400, "characters"),
    ],
)
def test_what_cannot_be_made_is_refused_in_ollamas_shape(
    server: Served, members: dict[str, object], status: int, words: str
) -> None:
    answer = server.post("/api/create", {"model": "mine", "from": "fake", **members})
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    assert words in answer.json()["error"]


def test_changes_are_an_administrators(fake_server: FakeServer, backend: FakeBackend) -> None:
    keys = {"api_keys": ["user"], "admin_keys": ["admin"]}
    served = fake_server(backend, config=Config.model_validate({"server": keys}))
    body = {"model": "mine", "from": "fake"}
    for path, sent in (("/api/create", body), ("/api/copy", {"source": "fake", "destination": "mine"})):
        assert served.post(path, sent, headers={"Authorization": "Bearer user"}).status_code == 403
        assert served.post(path, sent, headers={"Authorization": "Bearer admin"}).status_code == 200
    user = {"Authorization": "Bearer user"}
    assert served.post("/api/chat", {"model": "mine", "messages": QUESTION}, headers=user).status_code == 200


def test_open_webuis_connection(server: Served, backend: FakeBackend) -> None:
    """The requests of Open WebUI's routers/ollama.py (0.12): each with a JSON body, those that create models
    as a stream.
    """
    created = server.post("/api/create", {"model": "mine:latest", "from": "fake", "stream": True})
    assert [json.loads(line) for line in created.text.splitlines()][-1] == {"status": "success"}
    assert server.post("/api/copy", {"source": "mine", "destination": "ours"}).status_code == 200
    shown = server.post("/api/show", {"name": "ours", "model": "ours"}).json()
    assert {"template", "parameters", "capabilities", "model_info"} <= shown.keys()
    unloaded = server.post("/api/generate", {"model": "ours", "keep_alive": 0, "prompt": ""})
    assert unloaded.json()["done_reason"] == "unload"
    sent = {"model": "mine", "messages": QUESTION, "stream": True, "options": {}}
    assert json.loads(server.post("/api/chat", sent).text.splitlines()[-1])["done"] is True
    for path in ("/v1/chat/completions", "/v1/messages", "/v1/responses"):
        body = {"model": "mine", "messages": QUESTION, "input": "Hi", "max_tokens": 3}
        assert server.post(path, body).status_code == 200
    old = server.post("/api/embeddings", {"model": "mine", "prompt": "Hi"})
    assert len(old.json()["embedding"]) == len(
        server.post("/api/embed", {"model": "ours", "input": ["Hi"]}).json()["embeddings"][0]
    )
    for name in ("mine", "ours"):
        gone = server.http.request("DELETE", "/api/delete", json={"name": name, "model": name})
        assert gone.status_code == 200
    assert [model["model"] for model in server.get("/api/tags").json()["models"]] == ["fake"]


def test_they_outlive_the_server(backend: FakeBackend, tmp_path: Path) -> None:
    config = Config.model_validate({"paths": {"data": tmp_path}})

    async def names(change: dict[str, object] | None) -> list[str]:
        app = create_app(config, [FakeBackend(["Hi"])])
        transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http,
        ):
            if change is not None:
                (await http.post("/api/create", json=change)).raise_for_status()
            return [model["name"] for model in (await http.get("/api/tags")).json()["models"]]

    asyncio.run(names({"model": "mine", "from": "fake", "system": "Be brief."}))
    assert asyncio.run(names(None)) == ["fake", "mine"]


def test_a_preset_fills_what_is_not_set() -> None:
    preset = Preset("p", "b", "S", (Message("user", "u"),), {"temperature": 0.5, "stop": ("x",)})
    request = GenerateRequest("p", Conversation((Message("developer", "D"), Message("user", "q"))))
    applied = preset.applied(request)
    assert isinstance(applied.prompt, Conversation)
    assert [one.text for one in applied.prompt.messages] == ["D", "u", "q"]
    assert (applied.sampling.temperature, applied.sampling.stop) == (0.5, ("x",))
    text = preset.applied(GenerateRequest("p", Texts(("t",)), Sampling(temperature=0.0, stop=("y",))))
    assert (text.prompt, text.sampling.temperature, text.sampling.stop) == (Texts(("t",)), 0.0, ("y",))


def test_names() -> None:
    assert checked_name("me/mario:latest", "model") == "me/mario"
    for name in ("", "a b", "a\n", "/x", "x" * 200, "a@b"):
        with pytest.raises(BadRequest):
            checked_name(name, "model")
    body = CreateBody.model_validate({"model": "a", "from": "b", "parameters": {"stop": "x"}})
    assert json.loads(json.dumps(body.stored())) == {"from": "b", "parameters": {"stop": "x"}}
