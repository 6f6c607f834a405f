"""/tokenize, /detokenize and /tokenizer_info over a scripted backend, whose tokens are the bytes of UTF-8."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from headrace.app import create_app
from headrace.backends.fake import FakeBackend
from headrace.config import Config
from headrace.types import TokenizeRequest
from tests.conftest import FakeServer
from tests.serving import Served, serving

ROOTS = ["", "/v1"]
USER = {"role": "user", "content": "hi"}


class Recorder(FakeBackend):
    """Keeps what it was asked to tokenize."""

    def __init__(self) -> None:
        super().__init__([])
        self.tokenized: list[TokenizeRequest] = []

    async def tokenize(self, request: TokenizeRequest) -> list[int]:
        self.tokenized.append(request)
        return await super().tokenize(request)


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serving(create_app(Config(), [Recorder()])) as served:
        yield served


def last(server: Served) -> TokenizeRequest:
    assert isinstance(server.backend, Recorder)
    return server.backend.tokenized[-1]


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("name", ["prompt", "input", "text"])
def test_text_comes_back_as_it_went(server: Served, root: str, name: str) -> None:
    answer = server.post(f"{root}/tokenize", {name: "é!", "model": "fake"}).json()
    assert answer == {"tokens": [0xC3, 0xA9, 0x21], "count": 3, "max_model_len": 4096}
    back = server.post(f"{root}/detokenize", {"tokens": answer["tokens"], "model": "fake"}).json()
    assert back == {"prompt": "é!", "text": "é!"}


def test_model_may_be_left_out(server: Served) -> None:
    assert server.post("/tokenize", {"prompt": ""}).json()["count"] == 0
    assert server.post("/detokenize", {"tokens": []}).json()["prompt"] == ""


def test_tokens_are_shown_as_text_when_asked(server: Served) -> None:
    answer = server.post("/tokenize", {"prompt": "ab", "return_token_strs": True}).json()
    assert (answer["tokens"], answer["token_strs"]) == ([97, 98], ["a", "b"])


@pytest.mark.parametrize(
    ("members", "specials"),
    [({}, True), ({"add_special_tokens": False}, False), ({"add_special_tokens": True}, True)],
)
def test_special_tokens_are_added_to_a_text_unless_said(
    server: Served, members: dict[str, Any], specials: bool
) -> None:
    server.post("/tokenize", {"prompt": "x", **members})
    assert last(server) == TokenizeRequest("fake", "x", specials)


def test_conversation_is_tokenized_as_chat_would(server: Served) -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    members = {"tools": [tool], "add_generation_prompt": False, "chat_template_kwargs": {"a": 1}}
    assert server.post("/tokenize", {"messages": [USER], **members}).json()["count"] == 2
    request = last(server)
    assert not isinstance(request.prompt, str)
    assert [message.text for message in request.prompt.messages] == ["hi"]
    assert [tool.name for tool in request.prompt.tools] == ["f"]
    assert (request.prompt.add_generation_prompt, request.prompt.template_kwargs) == (False, {"a": 1})
    assert not request.add_special_tokens  # the template writes them


WRONG: list[tuple[str, str, dict[str, Any]]] = [
    ("/tokenize", "prompt", {}),
    ("/tokenize", "prompt", {"prompt": 5}),
    ("/tokenize", "input", {"prompt": "a", "input": "b"}),
    ("/tokenize", "messages", {"text": "a", "messages": [USER]}),
    ("/tokenize", "messages", {"messages": []}),
    ("/tokenize", "messages.0.role", {"messages": [{"role": "wizard", "content": ""}]}),
    ("/tokenize", "add_special_tokens", {"prompt": "a", "add_special_tokens": "no"}),
    ("/detokenize", "tokens", {}),
    ("/detokenize", "tokens", {"tokens": "abc"}),
    ("/detokenize", "tokens.1", {"tokens": [1, -1]}),
]


@pytest.mark.parametrize(("path", "param", "body"), WRONG)
def test_mistake_is_400_and_names_the_member(
    server: Served, path: str, param: str, body: dict[str, Any]
) -> None:
    response = server.post(path, body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
def test_unknown_model_and_members(server: Served, path: str) -> None:
    body: dict[str, Any] = {"prompt": "x"} if path == "/tokenize" else {"tokens": [1]}
    unknown = server.post(path, {**body, "model": "gpt-9"})
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (404, "model")
    assert server.post(path, {**body, "novelty": 1}).headers["x-headrace-ignored"] == "novelty"
    strict = server.post(path, {**body, "novelty": 1}, headers={"X-Headrace-Strict": "true"})
    assert (strict.status_code, strict.json()["error"]["param"]) == (400, "novelty")


@pytest.mark.parametrize("root", ROOTS)
def test_tokenizer_describes_itself_to_a_client_without_a_key(server: Served, root: str) -> None:
    request = urllib.request.Request(
        server.url + root + "/tokenizer_info", headers={"Authorization": "Bearer "}
    )
    with urllib.request.urlopen(request) as answer:  # httpx2 will not send an empty key
        described = json.load(answer)
    assert described == {
        "model": "fake",
        "eos_token": "\0",
        "bos_token": None,
        "pad_token": None,
        "chat_template": None,
        "vocab_size": 256,
    }
    assert server.get(f"{root}/tokenizer_info?model=gpt-9").status_code == 404


def test_keys_are_asked_for(fake_server: FakeServer) -> None:
    server = fake_server(config=Config.model_validate({"server": {"api_keys": ("k",)}}))
    for path in ("/tokenize", "/v1/detokenize", "/v1/embeddings"):
        assert server.post(path, {}).status_code == 401
    assert server.get("/tokenizer_info").status_code == 401


def test_no_model_at_all_is_404(fake_server: FakeServer) -> None:
    class Empty(FakeBackend):
        def models(self) -> list[Any]:
            return []

    response = fake_server(Empty([])).post("/tokenize", {"prompt": "x"})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
