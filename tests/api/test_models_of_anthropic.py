"""GET /v1/models as Anthropic's client asks for it; what it sends in several lines; addresses with /v1."""

from __future__ import annotations

import json
from collections.abc import Iterator

import anthropic
import pytest

from headrace.app import create_app
from headrace.assembly import build_providers
from headrace.backends.anthropic import AnthropicBackend
from headrace.backends.cerebras import CerebrasBackend
from headrace.backends.ollama import OllamaBackend
from headrace.backends.openai import OpenAIBackend
from headrace.backends.remote import Remote
from headrace.config import Config, ProviderConfig
from tests.api.anthropics import reading
from tests.api.relays import CALLERS, HI, MESSAGE, Relays, relays
from tests.serving import Served, serving
from tests.upstream import answer

IDS = [f"m{number}" for number in range(45)]
NOBODY = "http://127.0.0.1:9/v1"  # its models are named in the configuration
VERSION = {"anthropic-version": "2023-06-01"}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    config = Config.model_validate(
        {
            "server": {"api_keys": [CALLERS]},
            "models": {"default": ""},
            "providers": {
                "up": {"kind": "openai", "base_url": NOBODY, "models": IDS, "prefix": False},
            },
        }
    )
    with serving(create_app(config, build_providers(config))) as running:
        yield running


def test_the_strict_client_lists_all_pages(served: Served) -> None:
    with reading(served, CALLERS) as client:
        first = client.models.list()
        assert (len(first.data), first.has_more, first.first_id, first.last_id) == (20, True, "m0", "m19")
        assert [model.id for model in client.models.list()] == IDS
        assert [model.id for model in client.models.list(limit=7)] == IDS
        assert client.models.list(limit=1000).has_more is False


def test_pages_before_and_after_an_id(served: Served) -> None:
    with reading(served, CALLERS) as client:
        assert [model.id for model in client.models.list(limit=2, after_id="m9").data] == ["m10", "m11"]
        before = client.models.list(limit=2, before_id="m9")
        assert ([model.id for model in before.data], before.has_more) == (["m7", "m8"], True)
        assert client.models.list(limit=20, before_id="m1").has_more is False
        assert client.models.list(after_id="m44").data == []
        assert client.models.list(lifecycle=["retired"]).data == []
        assert len(client.models.list(lifecycle=["retired", "active"]).data) == 20


def test_the_strict_client_finds_one(served: Served) -> None:
    with reading(served, CALLERS) as client:
        found = client.models.retrieve("m3")
        assert (found.id, found.type, found.lifecycle) == ("m3", "model", "active")
        assert found.created_at.tzinfo is not None
        with pytest.raises(anthropic.NotFoundError) as raised:
            client.models.retrieve("ghost")
        assert raised.value.type == "not_found_error"
        assert raised.value.request_id


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "limit=٣", "after_id=ghost", "before_id="]
)
def test_what_no_page_is_is_a_400_in_its_shape(served: Served, query: str) -> None:
    response = served.get(f"/v1/models?{query}", {**VERSION, "x-api-key": CALLERS})
    assert (response.status_code, response.json()["type"]) == (400, "error")
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_without_a_key_it_is_reported_in_its_shape(served: Served) -> None:
    response = served.get("/v1/models", VERSION)
    assert (response.status_code, response.json()["error"]["type"]) == (401, "authentication_error")
    assert response.headers["request-id"]


def test_without_the_header_it_is_openais_list(served: Served) -> None:
    response = served.get("/v1/models", {"Authorization": f"Bearer {CALLERS}"})
    assert response.json()["object"] == "list"
    assert len(response.json()["data"]) == len(IDS)
    of_one = served.get("/up/v1/models", {**VERSION, "x-api-key": CALLERS})
    assert of_one.json()["first_id"] == "m0"


@pytest.fixture(scope="module")
def ours() -> Iterator[Relays]:
    with relays() as made:
        yield made


@pytest.mark.parametrize(
    ("lines", "sent"),
    [
        (["a-1", "b-2"], "a-1, b-2"),
        (["a-1,b-2", "c-3"], "a-1,b-2, c-3"),
        (["a-1"], "a-1"),
        (["a-1", "a-1", "b-2"], "a-1, b-2"),
        (["", "a-1", ""], "a-1"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_g17_a_header_in_several_lines_goes_on_whole(
    ours: Relays, path: str, lines: list[str], sent: str
) -> None:
    ours.provider.play(answer({**MESSAGE, "input_tokens": 9}))
    body = json.dumps({"model": "an:m", "messages": HI, "max_tokens": 9}).encode()
    headers = [
        ("Authorization", f"Bearer {CALLERS}"),
        ("Content-Type", "application/json"),
        ("anthropic-version", "2023-06-01"),
        ("anthropic-version", "2023-06-01"),
        *(("anthropic-beta", line) for line in lines),
    ]
    assert ours.served.http.post(path, content=body, headers=headers).status_code == 200
    seen = ours.provider.posts[-1].headers
    assert (seen["anthropic-beta"], seen["anthropic-version"]) == (sent, "2023-06-01")


ROOTS: list[tuple[type[Remote], str, str]] = [
    (AnthropicBackend, "http://h/v1", "http://h"),
    (AnthropicBackend, "http://h/v1/", "http://h"),
    (AnthropicBackend, "http://h/proxy/v1", "http://h/proxy"),
    (AnthropicBackend, "http://h/v1/messages", "http://h"),
    (AnthropicBackend, "http://h/v1/messages/count_tokens", "http://h"),
    (AnthropicBackend, "http://h/v1/models/", "http://h"),
    (AnthropicBackend, " http://h/v1 ", "http://h"),
    (AnthropicBackend, "http://h", "http://h"),
    (AnthropicBackend, "http://h/v12", "http://h/v12"),
    (OllamaBackend, "http://h:11434/v1", "http://h:11434"),
    (OllamaBackend, "http://h:11434/v1/", "http://h:11434"),
    (OllamaBackend, "http://h/api", "http://h"),
    (OllamaBackend, "http://h/ollama", "http://h/ollama"),
    (OllamaBackend, "http://h/api/generate", "http://h"),
    (OllamaBackend, "http://h/x/api/tags/", "http://h/x"),
    (OpenAIBackend, "http://h/v1/models", "http://h/v1"),
    (OpenAIBackend, "http://h/v1/chat/completions", "http://h/v1"),
    (OpenAIBackend, "http://h/v1/", "http://h/v1"),
    (OpenAIBackend, "http://h", "http://h"),
    (CerebrasBackend, "http://h", "http://h/v1"),
    (CerebrasBackend, "http://h/v1", "http://h/v1"),
]


@pytest.mark.parametrize(("kind", "base_url", "root"), ROOTS)
def test_g25_an_address_is_corrected(kind: type[Remote], base_url: str, root: str) -> None:
    made = kind("p", ProviderConfig(kind="fake", base_url=base_url), None)  # type: ignore[arg-type, call-arg]
    assert made.upstream.base_url == root


@pytest.mark.parametrize("end", ["/v1", "/v1/"])
def test_g25_requests_go_where_they_should(end: str) -> None:
    with relays() as made:
        config = ProviderConfig(kind="anthropic", base_url=made.provider.url + end, models=("m",))
        with serving(create_app(Config(), [AnthropicBackend("an", config, "k")])) as running:
            made.provider.play(answer(MESSAGE))
            running.post("/v1/messages", {"model": "m", "messages": HI, "max_tokens": 9})
        assert made.provider.posts[-1].path == "/v1/messages"
