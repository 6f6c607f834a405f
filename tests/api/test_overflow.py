"""L16: a prompt that does not fit is told in the words by which the clients of each dialect recognise it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from headrace.models.catalog import DEFAULT_MODEL
from tests.serving import Served

WORDS = re.compile(
    r"This model's maximum context length is (\d+) tokens\. However, you requested (?:about )?(\d+) tokens"
)
# what clients look for: LangChain, LiteLLM and aider, opencode and pi
CLIENTS = [
    re.compile(r"This model's maximum context length is"),
    re.compile(r"maximum context length is \d+ tokens", re.IGNORECASE),
    re.compile(r"reduce the length of the (messages|prompt|input)"),
]
LONG, FAR_TOO_LONG = "word " * 256, "word " * 50_000
HI: Any = [{"role": "user", "content": "hi"}]


def body_of(path: str, text: str, stream: bool) -> dict[str, Any]:
    said: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": [{"role": "user", "content": text}]},
        "/v1/completions": {"prompt": text},
        "/v1/responses": {"input": text},
        "/v1/messages": {"messages": [{"role": "user", "content": text}], "max_tokens": 9},
    }
    return {"model": DEFAULT_MODEL, "stream": stream, **said[path]}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("text", [LONG, FAR_TOO_LONG], ids=["a little", "far"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
def test_l16_in_openais_words(small_server: Served, path: str, text: str, stream: bool) -> None:
    response = small_server.post(path, body_of(path, text, stream))
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "context_length_exceeded")
    found = WORDS.search(error["message"])
    assert found is not None, error["message"]
    assert int(found[1]) == 256 < int(found[2])
    assert all(client.search(error["message"]) for client in CLIENTS)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("text", [LONG, FAR_TOO_LONG], ids=["a little", "far"])
def test_l16_in_anthropics_words(small_server: Served, text: str, stream: bool) -> None:
    response = small_server.post("/v1/messages", body_of("/v1/messages", text, stream))
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (400, "invalid_request_error")
    found = re.fullmatch(r"prompt is too long: (\d+) tokens > 256 maximum", error["message"])
    assert found is not None, error["message"]
    assert int(found[1]) > 256


def test_l16_of_embeddings_and_of_kept_turns(small_server: Served) -> None:
    response = small_server.post("/v1/embeddings", {"model": DEFAULT_MODEL, "input": LONG})
    assert WORDS.search(response.json()["error"]["message"])
    first = small_server.post(
        "/v1/responses", {"model": DEFAULT_MODEL, "input": "hi " * 150, "max_tokens": 5}
    )
    body = {"model": DEFAULT_MODEL, "input": "hi " * 150, "previous_response_id": first.json()["id"]}
    response = small_server.post("/v1/responses", body)
    assert WORDS.search(response.json()["error"]["message"])
    background = small_server.post("/v1/responses", {**body, "input": FAR_TOO_LONG, "background": True})
    assert "maximum context length is 256 tokens" in str(background.json())
