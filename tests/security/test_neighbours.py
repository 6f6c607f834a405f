"""What one caller sends is not told to another: the prefix cache is each owner's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from headrace.app import create_app
from headrace.assembly import build_backends
from headrace.backends.llamacpp import LlamaCppBackend
from headrace.config import Config
from headrace.models.catalog import Model
from tests.serving import Served, serving

ONE, TWO = "key-one", "key-two"
LONG = (
    "The meeting about the merger is on Thursday at nine, in the small room. " * 4
)  # a token is a byte here


def config_of(*keys: str, **engine: object) -> Config:
    return Config.model_validate(
        {
            "server": {"api_keys": keys},
            "engine": {"kv_cache_bytes": "256MiB", "disk_cache_bytes": 0, **engine},
        }
    )


def serving_config(config: Config, model: Model) -> Any:
    return serving(create_app(config, build_backends(config, [model])))


@pytest.fixture(scope="module")
def keyed(small_model: Model) -> Iterator[Served]:
    with serving_config(config_of(ONE, TWO), small_model) as served:
        yield served


def chat(text: str) -> tuple[str, dict[str, object]]:
    return "/v1/chat/completions", {"messages": [{"role": "user", "content": text}], "max_tokens": 1}


def completion(text: str) -> tuple[str, dict[str, object]]:
    return "/v1/completions", {"prompt": text, "max_tokens": 1}


def response(text: str) -> tuple[str, dict[str, object]]:
    return "/v1/responses", {"input": text, "max_output_tokens": 16}


def message(text: str) -> tuple[str, dict[str, object]]:
    return "/v1/messages", {"messages": [{"role": "user", "content": text}], "max_tokens": 1}


def stored_chat(text: str) -> tuple[str, dict[str, object]]:
    path, body = chat(text)
    return path, {**body, "store": True}


def embedding(text: str) -> tuple[str, dict[str, object]]:
    return "/v1/embeddings", {"input": text, "pooling": "last"}


def cached(server: Served, request: tuple[str, dict[str, object]], key: str) -> int:
    """The prompt's tokens that the answer says were in the cache."""
    path, body = request
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    answer = server.post(path, {"model": "small", **body}, headers=headers)
    assert answer.status_code == 200, answer.text
    usage = answer.json()["usage"]
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    return int(details.get("cached_tokens", usage.get("cache_read_input_tokens", 0)))


@pytest.mark.parametrize("make", [chat, completion, response, message, stored_chat])
def test_a_prompt_that_another_key_sent_is_not_in_the_cache(keyed: Served, make: Any) -> None:
    text = f"{make.__name__}: {LONG}"
    assert cached(keyed, make(text), ONE) < 64
    assert cached(keyed, make(text), TWO) < 64
    assert cached(keyed, make(text), ONE) > 200
    assert cached(keyed, make(text), TWO) > 200


def test_what_another_key_embedded_is_not_in_the_cache(keyed: Served) -> None:
    cached(keyed, embedding("Embedded: " + LONG), ONE)
    assert cached(keyed, completion("Embedded: " + LONG), TWO) < 64
    assert cached(keyed, completion("Embedded: " + LONG), ONE) > 200


def test_those_who_trust_each_other_share_it(small_model: Model) -> None:
    with serving_config(config_of(ONE, TWO, share_prefix_cache=True), small_model) as server:
        assert cached(server, chat(LONG), ONE) < 64
        assert cached(server, chat(LONG), TWO) > 200


def test_without_keys_all_share_it(small_model: Model) -> None:
    with serving_config(config_of(), small_model) as server:
        cached(server, chat(LONG), "")
        assert cached(server, chat(LONG), "whatever") > 200


@pytest.mark.parametrize(
    ("keys", "engine", "is_found"),
    [((ONE, TWO), {}, False), ((ONE,), {}, True), ((ONE, TWO), {"share_prefix_cache": True}, True)],
)
def test_llama_cpp_keeps_no_prompt_for_another_key(
    small_model: Model, keys: tuple[str, ...], engine: dict[str, object], is_found: bool
) -> None:
    provider = {"kind": "llamacpp", "path": str(small_model.gguf)}
    config = Config.model_validate(
        {
            "server": {"api_keys": keys},
            "engine": {"max_num_seqs": 1, "max_model_len": 1024, **engine},
            "providers": {"l": provider},
            "models": {"embedding": "none"},
        }
    )
    backends = build_backends(config, [])
    assert isinstance(backends[0], LlamaCppBackend)
    with serving(create_app(config, backends)) as server:
        path, body = chat(LONG)
        id = server.get("/v1/models", {"Authorization": f"Bearer {ONE}"}).json()["data"][0]["id"]
        cached(server, (path, {**body, "model": id}), keys[0])
        assert (cached(server, (path, {**body, "model": id}), keys[-1]) > 200) is is_found
