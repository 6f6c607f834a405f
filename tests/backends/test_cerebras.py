import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import openai
import pytest

from headrace.app import create_app
from headrace.backends.cerebras import DEFAULT_TOKENS, MAX_TOKENS, CerebrasBackend
from headrace.config import Config, ProviderConfig
from headrace.errors import BadRequest
from headrace.features import Feature
from headrace.types import Conversation, EmbedRequest, GenerateRequest, Message, Sampling, Texts
from tests.backends.two_ways import COUNTED, STOP, TEXT, streamed
from tests.serving import serving
from tests.upstream import Answer, Upstream, answer, scripted, sse

REQUEST = GenerateRequest("llama-3.3-70b", Conversation((Message("user", "hi"),)))
TIME = {"queue_time": 0.01, "prompt_time": 0.02, "completion_time": 0.03, "total_time": 0.07, "created": 1}


def _body(request: GenerateRequest) -> dict[str, Any]:
    path, body = CerebrasBackend("c", ProviderConfig(kind="cerebras"), "k").write(request)
    assert path == ("/chat/completions" if isinstance(request.prompt, Conversation) else "/completions")
    return body


@pytest.fixture
def provider() -> Iterator[Upstream]:
    with scripted() as found:
        found.always("/v1/models", answer({"data": [{"id": "m"}]}))
        yield found


def test_its_stream_is_read_and_its_headers_are_sent(provider: Upstream) -> None:
    provider.play(Answer(pieces=sse(*TEXT, {**STOP, "usage": COUNTED["usage"], "time_info": TIME}, "[DONE]")))
    config = ProviderConfig(kind="cerebras", base_url=provider.url + "/v1", models=("m",))
    app = create_app(Config(), [CerebrasBackend("c", config, "csk-key")])
    with serving(app) as served, served.client() as client:
        seen = streamed(client)
    assert (seen.choices[0]["text"], (seen.usage or {})["cached"]) == ("Grüße 🌊", 16)
    headers = provider.posts[0].headers
    assert headers["authorization"] == "Bearer csk-key"
    assert headers["x-cerebras-3rd-party-integration"] == "headrace"


@pytest.mark.parametrize("members", [{}, {"max_tokens": 9}], ids=["relayed", "translated"])
def test_its_times_are_passed_on(provider: Upstream, members: dict[str, Any]) -> None:
    timed = {**STOP, "usage": COUNTED["usage"], "time_info": TIME}
    config = ProviderConfig(kind="cerebras", base_url=provider.url + "/v1", models=("m",))
    app = create_app(Config(), [CerebrasBackend("c", config, None)])
    body: Any = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **members}
    message = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
    whole = {"id": "c", "object": "chat.completion", "choices": [message], "time_info": TIME}
    with serving(app) as served, served.client() as client:
        provider.play(Answer(pieces=sse(*TEXT, timed, "[DONE]")))
        *_, last = (chunk for chunk in client.chat.completions.create(**body, stream=True) if chunk.choices)
        assert last.model_extra["time_info"] == TIME
        provider.play(Answer(pieces=sse(*TEXT, timed, "[DONE]")) if members else answer(whole))
        assert client.chat.completions.create(**body).model_extra["time_info"] == TIME


def test_what_it_refuses_is_refused_before_it_is_sent(provider: Upstream) -> None:
    config = ProviderConfig(kind="cerebras", base_url=provider.url + "/v1", models=("m",))
    app = create_app(Config(), [CerebrasBackend("c", config, None)])
    refused = pytest.raises(openai.BadRequestError)
    with serving(app) as served, served.client() as client, refused as caught:
        streamed(client, frequency_penalty=0.5)
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "frequency_penalty")
    assert not provider.posts


@pytest.mark.parametrize("messages", [[1], [None], [[]], ["reasoning_content"]])
def test_what_are_no_messages_is_a_400(provider: Upstream, messages: list[Any]) -> None:
    config = ProviderConfig(kind="cerebras", base_url=provider.url + "/v1", models=("m",))
    with serving(create_app(Config(), [CerebrasBackend("c", config, None)])) as served:
        refused = served.post("/v1/chat/completions", {"model": "m", "messages": messages})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "messages.0")
    assert not provider.posts


@pytest.mark.parametrize("model", ["llama-3.3-70b", "gpt-oss-120b", "zai-glm-4.7", "qwen-3-32b", "new"])
def test_no_model_takes_penalties(model: str) -> None:
    backend = CerebrasBackend("c", ProviderConfig(kind="cerebras"), "k")
    penalties = {Feature.FREQUENCY_PENALTY, Feature.PRESENCE_PENALTY, Feature.LOGIT_BIAS}
    assert backend.features_of(model).isdisjoint(penalties)


ONE = {"type": "function", "function": {"name": "f"}}
PARALLEL = [
    (
        {"tools": [{"type": "function", "function": {"name": "f"}}], "parallel_tool_calls": False},
        "parallel_tool_calls",
    ),
    ({"functions": [{"name": "f"}]}, "functions"),  # of which there is one call at a time
]


@pytest.mark.parametrize(("members", "param"), PARALLEL)
def test_some_models_take_parallel_tool_calls(
    provider: Upstream, members: dict[str, Any], param: str
) -> None:
    models = ("gpt-oss-120b", "llama-3.3-70b")
    provider.play(*[Answer(pieces=sse(*TEXT, {**STOP, "usage": COUNTED["usage"]}, "[DONE]"))] * 2)
    config = ProviderConfig(kind="cerebras", base_url=provider.url + "/v1", models=models)
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, **members}
    with serving(create_app(Config(), [CerebrasBackend("c", config, None)])) as served:
        taken = served.post("/v1/chat/completions", {"model": models[0], **body})
        refused = served.post("/v1/chat/completions", {"model": models[1], **body})
        plain = {**body, "model": models[1], param: [] if param == "functions" else True}
        assert served.post("/v1/chat/completions", plain).status_code == 200
    assert taken.status_code == 200
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
    assert [post.body.get("parallel_tool_calls") for post in provider.posts] == [False, None]


@pytest.mark.parametrize(
    ("requested", "sent"), [(None, DEFAULT_TOKENS), (5, 5), (MAX_TOKENS, MAX_TOKENS), (10**6, MAX_TOKENS)]
)
def test_the_quota_it_takes_in_advance_has_a_bound(requested: int | None, sent: int) -> None:
    sampling = Sampling(max_tokens=requested)
    assert _body(replace(REQUEST, sampling=sampling))["max_completion_tokens"] == sent
    assert _body(replace(REQUEST, prompt=Texts(("x",)), sampling=sampling))["max_tokens"] == sent


def test_thinking_is_replayed_under_its_name() -> None:
    prompt = Conversation((Message("user", "hi"), Message("assistant", "yes", reasoning="hm")))
    assert _body(replace(REQUEST, prompt=prompt))["messages"][1] == {
        "role": "assistant", "content": "yes", "reasoning": "hm",
    }  # fmt: skip


def test_it_has_no_embeddings() -> None:
    backend = CerebrasBackend("c", ProviderConfig(kind="cerebras"), "k")
    with pytest.raises(BadRequest, match="no embeddings"):
        asyncio.run(backend.embed(EmbedRequest("m", ("a",))))
