"""Providers by `provider:model` and by `/{provider}/v1`, through the real server and the official client."""

from __future__ import annotations

import openai
import pytest

from headrace.backends.fake import FakeBackend
from headrace.config import Config
from headrace.errors import (
    ProviderError,
    ProviderKeyRefused,
    ProviderLimited,
    ProviderTimedOut,
    ProviderUnreachable,
)
from headrace.types import ModelInfo, TokenizeRequest
from tests.conftest import FakeServer
from tests.serving import Served

HI = {"role": "user", "content": "hi"}
CONFIG = Config.model_validate({"providers": {"up": {"kind": "fake"}, "other": {"kind": "fake"}}})


class Open(FakeBackend):
    """Serves models that it does not list, and knows nothing of their lengths."""

    def find(self, id: str) -> ModelInfo | None:
        return ModelInfo(id, self.name, 0, None, None)

    def models(self) -> list[ModelInfo]:
        return [ModelInfo(self.id, self.name, 0, None, None)]


def backends() -> list[FakeBackend]:
    return [
        FakeBackend(["local"], id="m", name="headrace"),
        Open(["up"], id="m", name="up"),
        FakeBackend(["other"], id="org/x:8b", name="other"),
    ]


@pytest.fixture
def server(fake_server: FakeServer) -> Served:
    return fake_server(*backends(), config=CONFIG)


def client_of(server: Served, provider: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/{provider}/v1", api_key="x", max_retries=0)


def test_all_models_are_listed_and_what_is_listed_answers(server: Served) -> None:
    with server.client() as client:
        listed = {model.id: model.owned_by for model in client.models.list()}
        assert listed == {"m": "headrace", "up:m": "up", "other:org/x:8b": "other"}
        for id, owner in listed.items():
            answer = client.chat.completions.create(model=id, messages=[HI])  # type: ignore[list-item]
            assert answer.choices[0].message.content == {"headrace": "local"}.get(owner, owner)
            assert answer.model == id.removeprefix(f"{owner}:")
            assert client.models.retrieve(id).id == id
    assert server.get("/v1/models/up:m").json()["max_model_len"] is None


@pytest.mark.parametrize(("provider", "model"), [("up", "m"), ("up", "unlisted"), ("other", "org/x:8b")])
def test_one_provider_is_addressed_by_path(server: Served, provider: str, model: str) -> None:
    with client_of(server, provider) as client:
        stream = client.completions.create(model=model, prompt="x", stream=True)
        assert "".join(chunk.choices[0].text for chunk in stream) == provider
        raw = client.chat.completions.with_raw_response.create(
            model=model,
            messages=[HI],  # type: ignore[list-item]
        )
        assert raw.headers["x-headrace-backend"] == provider
        assert raw.headers["x-headrace-attempts"] == "1"
        assert raw.parse().model == model
        assert client.embeddings.create(model=model, input="x").model == model
        assert client.models.retrieve(model).owned_by == provider
        assert [entry.owned_by for entry in client.models.list()] == [provider]


def test_backend_is_asked_for_its_own_name_of_the_model(fake_server: FakeServer) -> None:
    _, up, other = fakes = backends()
    with fake_server(*fakes, config=CONFIG).client() as client:
        client.completions.create(model="up:new:1b", prompt="x")
        client.embeddings.create(model="other:org/x:8b", input="x")
    assert up.requests[0].model == "new:1b"
    assert other.embedded[0].model == "org/x:8b"


def test_tokens_are_those_of_the_addressed_provider(server: Served) -> None:
    for path, model in (("/other/v1", "org/x:8b"), ("/v1", "other:org/x:8b"), ("/other/v1", None)):
        tokens = server.post(f"{path}/tokenize", {"prompt": "hé", "model": model}).json()["tokens"]
        assert tokens == list("hé".encode())
        text = server.post(f"{path}/detokenize", {"tokens": [104, 105], "model": model}).json()["text"]
        assert text == "hi"
    unknown = server.post("/up/v1/tokenize", {"prompt": "hi", "model": "m"}).json()
    assert (unknown["count"], unknown["max_model_len"]) == (2, None)
    assert server.get("/other/v1/tokenizer_info").json()["model"] == "org/x:8b"


@pytest.mark.parametrize(
    ("path", "model", "code", "param"),
    [
        ("/v1", "ghost", "model_not_found", "model"),
        ("/v1", "ghost:m", "provider_not_found", "model"),
        ("/v1", "other:ghost", "model_not_found", "model"),
        ("/other/v1", "ghost", "model_not_found", "model"),
        ("/ghost/v1", "m", "provider_not_found", "provider"),
        ("/v1/v1", "m", "provider_not_found", "provider"),
    ],
)
def test_unknown_model_or_provider_is_404(
    server: Served, path: str, model: str, code: str, param: str
) -> None:
    responses = [
        server.post(f"{path}/chat/completions", {"model": model, "messages": [HI]}),
        server.post(f"{path}/chat/completions", {"model": model, "messages": [HI], "stream": True}),
        server.post(f"{path}/completions", {"model": model, "prompt": "x"}),
        server.post(f"{path}/embeddings", {"model": model, "input": "x"}),
        server.post(f"{path}/tokenize", {"model": model, "prompt": "x"}),
        server.get(f"{path}/models/{model}"),
        server.get(f"{path}/models/{model}/route"),
    ]
    for response in responses:
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["param"]) == (404, code, param)
    assert server.gateway.num_active == 0


def test_list_of_an_unknown_provider_is_404(server: Served) -> None:
    error = server.get("/ghost/v1/models").json()["error"]
    assert (error["code"], error["param"]) == ("provider_not_found", "provider")
    assert "other" in error["message"]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ProviderKeyRefused("up: bad key"), 502, "provider_authentication_error"),
        (ProviderLimited("up: slower", headers={"Retry-After": "7"}), 429, "rate_limit_exceeded"),
        (ProviderTimedOut("up: late"), 504, "provider_timeout"),
        (ProviderUnreachable("up: down"), 503, "provider_unreachable"),
        (ProviderError("up: nonsense"), 502, "provider_error"),
    ],
)
def test_providers_error_has_its_status_and_words(
    fake_server: FakeServer, stream: bool, error: ProviderError, status: int, code: str
) -> None:
    server = fake_server(FakeBackend([], id="m", name="up", refusal=error), config=CONFIG)
    for _ in range(7):  # who is addressed directly is always asked
        response = server.post("/up/v1/completions", {"model": "m", "prompt": "x", "stream": stream})
        assert (response.status_code, response.json()["error"]["code"]) == (status, code)
        assert response.json()["error"]["message"] == error.message
        assert response.headers.get("retry-after") == error.headers.get("Retry-After")


def test_keys_are_asked_for_on_every_path(fake_server: FakeServer) -> None:
    config = CONFIG.model_copy(update={"server": CONFIG.server.model_copy(update={"api_keys": ("k",)})})
    server = fake_server(*backends(), config=config)
    for path in ("/up/v1/models", "/up/v1/models/m", "/v1/models/m/route", "/up/v1/tokenizer_info"):
        assert server.get(path).status_code == 401
    for path in ("chat/completions", "completions", "embeddings", "tokenize", "detokenize"):
        assert server.post(f"/up/v1/{path}", {}).status_code == 401


class Secretive(FakeBackend):
    async def tokenize(self, request: TokenizeRequest) -> list[int]:
        raise ProviderError("no")


def test_provider_that_fails_to_tokenize_says_so(fake_server: FakeServer) -> None:
    server = fake_server(Secretive([], id="m", name="up"), config=CONFIG)
    assert server.post("/up/v1/tokenize", {"model": "m", "prompt": "x"}).status_code == 502
