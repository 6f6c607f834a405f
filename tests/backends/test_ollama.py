"""Ollama's API as a backend: beside the official SDK on the same wire, and under an OpenAI client."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import ollama
import openai
import pytest

from headrace.app import create_app
from headrace.backends.ollama import OllamaBackend
from headrace.backends.ollama import backend as module
from headrace.config import Config, ProviderConfig
from headrace.errors import (
    BadRequest,
    ContextTooLong,
    ModelNotFound,
    ProviderError,
    ProviderKeyRefused,
    ProviderLimited,
    ProviderRefused,
    ProviderTimedOut,
    ProviderUnreachable,
    ServerError,
    UnsupportedParameter,
)
from headrace.features import Feature
from headrace.types import (
    Conversation,
    EmbedRequest,
    Event,
    Finished,
    Format,
    GenerateRequest,
    Media,
    Message,
    ReasoningDelta,
    Sampling,
    TextDelta,
    Texts,
    TokenLogprob,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolChoice,
    Usage,
)
from tests.serving import Served, eventually, serving
from tests.upstream import Answer, Upstream, answer, scripted, split

CHAT, GENERATE, EMBED, SHOW, TAGS = "/api/chat", "/api/generate", "/api/embed", "/api/show", "/api/tags"
NDJSON = {"Content-Type": "application/x-ndjson"}
WEATHER = Tool("weather", "Of a city", {"type": "object", "properties": {"city": {"type": "string"}}})
REQUEST = GenerateRequest("m", Conversation((Message("user", "Hi"),)))
END: dict[str, Any] = {
    "done": True, "done_reason": "stop", "prompt_eval_count": 11, "eval_count": 7, "eval_duration": 2 * 10**9,
}  # fmt: skip


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """An Ollama with the model m, which takes 16,384 tokens."""
    with scripted() as upstream:
        model = {"name": "m", "digest": "d", "modified_at": "2025-05-04T17:37:44.706015396-07:00"}
        upstream.always(TAGS, answer({"models": [model]}))
        upstream.always(SHOW, answer({"model_info": {"general.size": 1, "llama.context_length": 16384}}))
        yield upstream


def line(**said: Any) -> dict[str, Any]:
    return {"model": "m", "created_at": "2026-11-01T00:00:00Z", "message": {"role": "assistant", **said}}


def end(**members: Any) -> dict[str, Any]:
    return {**line(content=""), **END, **members}


def ndjson(*values: object) -> list[bytes]:
    return [json.dumps(value, ensure_ascii=False).encode() + b"\n" for value in values]


def lines(*values: object, **rest: Any) -> Answer:
    return Answer(headers=NDJSON, pieces=ndjson(*values), **rest)


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": arguments}}


PLAIN = (line(content="Hel"), line(content="lo — ü"), end())
THINKING = (line(content="", thinking="Hm"), line(content="", thinking="…"), line(content="Yes"), end())
TOOLS = (
    line(content="Let me see. "),
    line(content="", tool_calls=[call("weather", city="Köln"), call("weather", city='"Rom"')]),
    line(content="", tool_calls=[call("clock")]),
    end(),
)
LONG = (line(content="Once"), end(done_reason="length"))


def backend(upstream: Upstream, **config: Any) -> OllamaBackend:
    key = config.pop("key", None)
    provider_config = ProviderConfig(kind="ollama", base_url=upstream.url, **config)
    return OllamaBackend("ollama", provider_config, key)


def ask(upstream: Upstream, *requests: GenerateRequest, **config: Any) -> list[Event]:
    """All events of these requests, one after the other."""

    async def run() -> list[Event]:
        ollama, events = backend(upstream, **config), list[Event]()
        await ollama.upstream.start()
        try:
            for request in requests or (REQUEST,):
                async with ollama.generate(request) as found:
                    events += [event async for event in found]
        finally:
            await ollama.aclose()
        return events

    return asyncio.run(run())


def text(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def sent(upstream: Upstream, path: str = CHAT) -> list[Any]:
    """The bodies that came to a path."""
    return [seen.body for seen in upstream.requests if seen.path == path]


def conversation(*messages: Message, **members: Any) -> GenerateRequest:
    return replace(REQUEST, prompt=Conversation(messages or (Message("user", "Hi"),), **members))


def sampling(**members: Any) -> GenerateRequest:
    return replace(REQUEST, sampling=Sampling(**members))


# --- beside the official SDK -----------------------------------------------------------------------------


@pytest.mark.parametrize("script", [PLAIN, THINKING, TOOLS, LONG], ids=["plain", "thinking", "tools", "long"])
def test_what_the_sdk_reads_we_read(upstream: Upstream, script: tuple[dict[str, Any], ...]) -> None:
    upstream.play(lines(*script), lines(*script), path=CHAT)
    with ollama.Client(upstream.url) as client:
        chunks = list(client.chat("m", [{"role": "user", "content": "Hi"}], stream=True))
    events = ask(upstream)
    assert text(events) == "".join(chunk.message.content or "" for chunk in chunks)
    thoughts = [event.text for event in events if isinstance(event, ReasoningDelta)]
    assert "".join(thoughts) == "".join(chunk.message.thinking or "" for chunk in chunks)
    theirs = [call.function for chunk in chunks for call in chunk.message.tool_calls or ()]
    ours = [event for event in events if isinstance(event, ToolCallDelta)]
    assert [(call.name, json.loads(call.arguments)) for call in ours] == [
        (call.name, dict(call.arguments)) for call in theirs
    ]
    last = events[-1]
    assert isinstance(last, Finished)
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (
        chunks[-1].prompt_eval_count,
        chunks[-1].eval_count,
    )
    assert last.reason == ("tool_calls" if theirs else chunks[-1].done_reason)


def test_our_body_is_the_sdks(upstream: Upstream) -> None:
    upstream.play(lines(*PLAIN), lines(*PLAIN), path=CHAT)
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    history: list[dict[str, Any]] = [
        {"role": "user", "content": "What is it?", "images": ["aGk="]},
        {"role": "assistant", "content": "", "thinking": "Hm", "tool_calls": [call("weather", city="Rom")]},
        {"role": "tool", "content": "sun", "tool_name": "weather"},
    ]
    function = {"name": "weather", "description": "Of a city", "parameters": dict(WEATHER.parameters or {})}
    tools: list[dict[str, Any]] = [{"type": "function", "function": function}]
    options = {"temperature": 0.5, "num_predict": 9, "stop": ["x"], "seed": 3}
    with ollama.Client(upstream.url) as client:
        list(
            client.chat(
                "m", history, tools=tools, think="high", format=schema, options=options, stream=True,
                keep_alive="9m",
            )
        )  # fmt: skip
    messages = (
        Message("user", "What is it?", parts=("What is it?", Media("image", data="aGk="))),
        Message("assistant", "", reasoning="Hm", tool_calls=(ToolCall("c1", "weather", '{"city": "Rom"}'),)),
        Message("tool", "sun", tool_call_id="c1"),
    )
    base = conversation(*messages, tools=(WEATHER,), reasoning_effort="high")
    wanted = Sampling(max_tokens=9, temperature=0.5, stop=("x",), seed=3)
    ask(
        upstream,
        replace(base, sampling=wanted, format=Format("json_schema", schema)),
        keep_alive="9m",
    )
    theirs, ours = sent(upstream)
    assert (ours.pop("truncate"), ours.pop("shift"), ours["options"].pop("num_ctx")) == (False, False, 4096)
    assert ours["messages"][1]["tool_calls"][0].pop("id") == "c1"
    assert ours["messages"][1].pop("content") == ""
    assert ours["messages"][2].pop("tool_call_id") == "c1"
    assert ours == theirs


# --- what comes back -------------------------------------------------------------------------------------


def test_each_call_has_its_own_number_and_id(upstream: Upstream) -> None:
    upstream.play(lines(*TOOLS), path=CHAT)
    calls = [event for event in ask(upstream) if isinstance(event, ToolCallDelta)]
    assert [call.call for call in calls] == [0, 1, 2]
    assert len({call.id for call in calls}) == 3
    assert calls[2].arguments == "{}"


def test_without_parallel_calls_there_is_one(upstream: Upstream) -> None:
    upstream.play(lines(*TOOLS), path=CHAT)
    events = ask(upstream, conversation(tools=(WEATHER,), parallel_tool_calls=False))
    assert [event.arguments for event in events if isinstance(event, ToolCallDelta)] == ['{"city": "Köln"}']
    assert isinstance(events[-1], Finished)
    assert events[-1].reason == "tool_calls"


@pytest.mark.parametrize(
    ("missing", "usage"),
    [
        ((), Usage(11, 7)),
        (("prompt_eval_count",), Usage(0, 7, is_known=False)),
        (("prompt_eval_count", "eval_count"), Usage(0, 0, is_known=False)),
    ],
)
def test_usage_that_is_not_reported_is_not_known(
    upstream: Upstream, missing: tuple[str, ...], usage: Usage
) -> None:
    last = {name: value for name, value in end().items() if name not in missing}
    upstream.play(lines(line(content="x"), last), path=CHAT)
    assert ask(upstream)[-1] == Finished(0, "stop", usage, decode_s=2.0)


def test_logprobs_come_with_their_texts(upstream: Upstream) -> None:
    entry = {"token": "Hel", "logprob": -0.5, "bytes": [72, 101, 108]}
    top = [{"token": "Hel", "logprob": -0.5}, {"token": "ü", "logprob": -1}]
    scored = {**line(content="Hel"), "logprobs": [{**entry, "top_logprobs": top}]}
    upstream.play(lines(scored, line(content="lo"), end()), lines(*PLAIN), path=CHAT)
    first = ask(upstream, sampling(logprobs=2))[0]
    tops = (("Hel", b"Hel", -0.5), ("ü", "ü".encode(), -1.0))
    assert first == TextDelta(0, "Hel", (TokenLogprob("Hel", b"Hel", -0.5, tops),))
    assert {"logprobs": True, "top_logprobs": 2}.items() <= sent(upstream)[0].items()
    with pytest.raises(ProviderError, match="no logprobs"):
        ask(upstream, sampling(logprobs=0))


def test_bytes_may_come_in_any_pieces(upstream: Upstream) -> None:
    whole = b"".join(ndjson(*THINKING[1:], *TOOLS[1:2], end()))
    cuts: list[list[int]] = [[at] for at in range(1, len(whole), 7)] + [list(range(1, len(whole)))]
    upstream.play(*(Answer(headers=NDJSON, pieces=split(whole, cut)) for cut in cuts), path=CHAT)
    crlf = Answer(headers=NDJSON, pieces=[whole.replace(b"\n", b"\r\n\r\n")], gzip=True)
    upstream.play(crlf, Answer(headers=NDJSON, pieces=[whole.rstrip()]), path=CHAT)
    events = ask(upstream, *[REQUEST] * (len(cuts) + 2))
    one = len(events) // (len(cuts) + 2)
    kinds = [(type(event), getattr(event, "text", "")) for event in events]
    assert kinds == kinds[:one] * (len(cuts) + 2)
    assert text(events[:one]) == "Yes"
    assert upstream.num_connections == 1, "an answer read to its end leaves its connection to the next"


# --- num_ctx ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt_bytes", "max_tokens", "num_ctx"),
    [(30, 10, 4096), (30, 4096, 8192), (30, None, 8192), (15000, 100, 8192), (15000, 50000, 16384)],
)
def test_num_ctx_holds_what_is_needed(
    upstream: Upstream, prompt_bytes: int, max_tokens: int | None, num_ctx: int
) -> None:
    upstream.play(lines(*PLAIN), path=CHAT)
    request = conversation(Message("user", "x" * prompt_bytes))
    ask(upstream, replace(request, sampling=Sampling(max_tokens=max_tokens)))
    assert sent(upstream)[0]["options"] == {"num_ctx": num_ctx, "num_predict": max_tokens or -1}


def test_num_ctx_does_not_shrink_under_a_model_in_use(upstream: Upstream) -> None:
    upstream.play(lines(*PLAIN), lines(*PLAIN), path=CHAT)
    ask(upstream, sampling(max_tokens=5000), sampling(max_tokens=5))
    assert [body["options"]["num_ctx"] for body in sent(upstream)] == [8192, 8192]
    assert len(sent(upstream, SHOW)) == 1, "what a model takes is asked once"


def test_num_ctx_shrinks_under_a_model_that_was_unloaded_meanwhile(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ollama gives up a model that nobody asks for a while: to load it as large again would be a waste."""
    monkeypatch.setattr(module, "IN_USE_S", -1.0)
    upstream.play(lines(*PLAIN), lines(*PLAIN), path=CHAT)
    ask(upstream, sampling(max_tokens=5000), sampling(max_tokens=5))
    assert [body["options"]["num_ctx"] for body in sent(upstream)] == [8192, 4096]


REFUSED = answer({"error": "request (8889 tokens) exceeds the available context size (4096)"}, status=400)


def test_a_prompt_longer_than_estimated_gets_more(upstream: Upstream) -> None:
    upstream.play(REFUSED, lines(*PLAIN), path=CHAT)
    assert text(ask(upstream, sampling(max_tokens=5))) == "Hello — ü"
    assert [body["options"]["num_ctx"] for body in sent(upstream)] == [4096, 8192]


def test_a_prompt_longer_than_the_model_takes_is_refused(upstream: Upstream) -> None:
    upstream.play(REFUSED, REFUSED, REFUSED, path=CHAT)
    with pytest.raises(ContextTooLong, match="8889"):
        ask(upstream, sampling(max_tokens=5))
    assert [body["options"]["num_ctx"] for body in sent(upstream)] == [4096, 8192, 16384]


def test_a_prompt_that_was_cut_is_an_error(upstream: Upstream) -> None:
    upstream.play(lines(line(content="x"), end(prompt_eval_count=4096)), path=CHAT)
    with pytest.raises(ContextTooLong, match="4096"):
        ask(upstream, sampling(max_tokens=5))


# --- what cannot be done ---------------------------------------------------------------------------------

URL = Media("image", url="http://127.0.0.1/x.png")


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (conversation(tools=(WEATHER,), tool_choice=ToolChoice("required")), "tool_choice"),
        (conversation(template_kwargs={"x": 1}), "chat_template_kwargs"),
        (conversation(Message("user", "", parts=("see", URL))), "messages.0.content.1"),
        (conversation(Message("user", "", parts=(Media("document", data="aGk="),))), "messages.0.content.0"),
        (replace(REQUEST, prompt=Texts(((1, 2),))), "prompt"),
    ],
)
def test_values_that_ollama_does_not_take_are_refused(
    upstream: Upstream, request_: GenerateRequest, param: str
) -> None:
    with pytest.raises(BadRequest) as refused:
        ask(upstream, request_)
    assert refused.value.param == param
    assert param in refused.value.message
    assert not upstream.requests


def test_what_ollama_cannot_do_is_not_carried() -> None:
    assert OllamaBackend.features.isdisjoint(
        {
            Feature.CHOICES,
            Feature.CONTINUED_MESSAGE,
            Feature.IGNORE_EOS,
            Feature.LOGIT_BIAS,
            Feature.POOLING,
            Feature.REGEX,
            Feature.UNSCALED_VECTORS,
        }
    )


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"reasoning_effort": "none"}, {"think": False}),
        ({"reasoning_effort": "max"}, {"think": "high"}),
        ({"template_kwargs": {"enable_thinking": True}}, {"think": True}),
        ({"tools": (WEATHER,), "tool_choice": ToolChoice("none")}, {}),
    ],
)
def test_members_of_a_conversation(upstream: Upstream, members: Any, expected: dict[str, Any]) -> None:
    upstream.play(lines(*PLAIN), path=CHAT)
    ask(upstream, conversation(Message("developer", "Be brief"), **members))
    body = sent(upstream)[0]
    assert body["messages"] == [{"role": "system", "content": "Be brief"}]
    assert {name: value for name, value in body.items() if name in ("think", "tools")} == expected


# --- what goes wrong -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, ProviderRefused), (401, ProviderKeyRefused), (404, ModelNotFound), (429, ProviderLimited),
        (500, ProviderError), (502, ProviderError), (503, ProviderUnreachable),
    ],
)  # fmt: skip
def test_a_refusal_keeps_ollamas_words(upstream: Upstream, status: int, kind: type[ServerError]) -> None:
    upstream.play(answer({"error": "it went wrong"}, status=status, headers={"Retry-After": "7"}), path=CHAT)
    with pytest.raises(kind, match="it went wrong") as refused:
        ask(upstream)
    assert type(refused.value) is kind
    assert refused.value.headers.get("Retry-After") in ("7", None)


def test_an_error_within_the_answer(upstream: Upstream) -> None:
    upstream.play(lines(line(content="Hel"), {"error": "the runner died"}), path=CHAT)
    with pytest.raises(ProviderError, match="the runner died"):
        ask(upstream)


@pytest.mark.parametrize("how", ["cut", "ended"])
def test_an_answer_without_its_end_is_an_error(upstream: Upstream, how: str) -> None:
    for count in range(len(TOOLS)):
        upstream.play(lines(*TOOLS[:count], cut=how == "cut"), path=CHAT)
        with pytest.raises(ProviderError, match=r"broke|too early"):
            ask(upstream)


@pytest.mark.parametrize(
    "garbage",
    [
        "<html>", "[1]", '{"message": 3}', '{"message": {"content": 3}}', '{"message": {"tool_calls": [3]}}',
        '{"message": {"tool_calls": [{"function": {"name": "f", "arguments": "x"}}]}}',
        '{"message": {"tool_calls": [{}]}}', '{"message": {}, "logprobs": [{"token": "x"}]}',
        '{"done": true, "done_reason": "load"}', "[" * 100000,
    ],
)  # fmt: skip
def test_what_is_no_answer_is_an_error(upstream: Upstream, garbage: str) -> None:
    body = [*ndjson(line(content="x")), garbage.encode() + b"\n"]
    upstream.play(Answer(headers=NDJSON, pieces=body), path=CHAT)
    with pytest.raises(ProviderError):
        ask(upstream)


def test_a_silent_ollama_is_given_up(upstream: Upstream) -> None:
    upstream.play(lines(line(content="x"), stall=True), lines(opening_s=9), path=CHAT)
    for _ in range(2):
        with pytest.raises(ProviderTimedOut):
            ask(upstream, timeout_s=0.1)


def test_an_ollama_that_is_not_there(upstream: Upstream) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    upstream.port = port
    with pytest.raises(ProviderUnreachable):
        ask(upstream)


def test_the_key_and_nothing_else_is_sent(upstream: Upstream) -> None:
    upstream.play(lines(*PLAIN), path=CHAT)
    ask(upstream, key="secret", headers={"X-Mine": "1"})
    seen = upstream.requests[-1].headers
    assert (seen["authorization"], seen["x-mine"]) == ("Bearer secret", "1")


# --- texts, embeddings, models ---------------------------------------------------------------------------


def test_texts_are_continued_one_after_the_other(upstream: Upstream) -> None:
    for word in ("one", "two"):
        upstream.play(lines({"response": word, "done": False}, {"response": "", **END}), path=GENERATE)
    events = ask(upstream, replace(REQUEST, prompt=Texts(("a", "b"), echo=True)))
    texts = [(event.index, event.text) for event in events if isinstance(event, TextDelta)]
    assert texts == [(0, "a"), (0, "one"), (1, "b"), (1, "two")]
    assert [event.index for event in events if isinstance(event, Finished)] == [0, 1]
    assert [(body["prompt"], body["raw"]) for body in sent(upstream, GENERATE)] == [("a", True), ("b", True)]


def test_a_gap_is_filled(upstream: Upstream) -> None:
    upstream.play(lines({"response": "x", **END}), path=GENERATE)
    assert text(ask(upstream, replace(REQUEST, prompt=Texts(("a",), suffix="z")))) == "x"
    body = sent(upstream, GENERATE)[0]
    assert body["suffix"] == "z"
    assert "raw" not in body


def embed(upstream: Upstream, request: EmbedRequest) -> Any:
    async def run() -> Any:
        ollama = backend(upstream)
        await ollama.upstream.start()
        try:
            return await ollama.embed(request)
        finally:
            await ollama.aclose()

    return asyncio.run(run())


def test_embeddings(upstream: Upstream) -> None:
    embedded = answer({"embeddings": [[0.25, -1.0], [0.5, 2.0]], "prompt_eval_count": 5})
    upstream.play(embedded, embedded, path=EMBED)
    with ollama.Client(upstream.url) as client:
        theirs = client.embed("m", ["a", "b"], truncate=False, dimensions=2)
    ours = embed(upstream, EmbedRequest("m", ("a", "b"), dimensions=2))
    assert ours.vectors.tolist() == theirs.embeddings
    assert ours.prompt_tokens == 5
    bodies = sent(upstream, EMBED)
    assert bodies[1].pop("options") == {"num_ctx": 4096}
    assert bodies[0] == bodies[1]


@pytest.mark.parametrize("vectors", [None, [[1.0]], [[1.0], []], [["x"], ["y"]], 3])
def test_embeddings_that_are_none(upstream: Upstream, vectors: object) -> None:
    upstream.play(answer({"embeddings": vectors}), path=EMBED)
    with pytest.raises(ProviderError):
        embed(upstream, EmbedRequest("m", ("a", "b")))


def test_embeddings_of_tokens_are_refused(upstream: Upstream) -> None:
    with pytest.raises(UnsupportedParameter, match="input"):
        embed(upstream, EmbedRequest("m", ("a", (1, 2))))


def test_models_are_listed_with_what_they_take(upstream: Upstream) -> None:
    old = {"name": "old:latest", "digest": "e", "modified_at": "?"}
    listed = [{"name": "m", "digest": "d", "modified_at": "2025-05-04T17:37:44.706015396-07:00"}, old]
    upstream.always(TAGS, answer({"models": listed}))
    upstream.play(
        answer({"model_info": {"llama.context_length": 5}}), answer({"error": "?"}, status=500), path=SHOW
    )

    async def run(**config: Any) -> list[tuple[str, int, int | None]]:
        ollama = backend(upstream, **config)
        await ollama.start()
        try:
            await ollama.refresh()
            return [(info.id, info.created, info.max_model_len) for info in ollama.models()]
        finally:
            await ollama.aclose()

    upstream.always(SHOW, answer({}))
    assert asyncio.run(run(models=("old",))) == [("old", 0, None)]
    names = [(id, created) for id, created, _ in asyncio.run(run())]
    assert names == [("m", 1746405464), ("old:latest", 0)]


# --- under an OpenAI client ------------------------------------------------------------------------------


@pytest.fixture
def served(upstream: Upstream) -> Iterator[Served]:
    with serving(create_app(Config(), [backend(upstream, models=("m",))])) as served:
        yield served


MESSAGES: list[Any] = [{"role": "user", "content": "Hi"}]
SPOKEN: list[Any] = [{"type": "function", "function": {"name": "weather"}}]


def test_an_openai_client_gets_tool_calls(upstream: Upstream, served: Served) -> None:
    upstream.play(lines(*TOOLS), lines(*TOOLS), path=CHAT)
    with served.client() as client:
        whole = client.chat.completions.create(model="m", messages=MESSAGES, tools=SPOKEN)
        with client.chat.completions.stream(model="m", messages=MESSAGES, tools=SPOKEN) as stream:
            streamed = stream.get_final_completion()
    for found in (whole, streamed):
        choice = found.choices[0]
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Let me see. ")
        calls = choice.message.tool_calls or []
        assert [json.loads(call.function.arguments) for call in calls if call.type == "function"] == [
            {"city": "Köln"},
            {"city": '"Rom"'},
            {},
        ]
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (11, 7)


def test_an_openai_client_shows_an_image_and_gets_thoughts(upstream: Upstream, served: Served) -> None:
    silent = {name: value for name, value in end().items() if name != "eval_count"}
    upstream.play(lines(*THINKING), lines(*THINKING[:-1], silent), path=CHAT)
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
    messages: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, image]}]
    with served.client() as client:
        whole = client.chat.completions.create(model="m", messages=messages, reasoning_effort="low")
        chunks = list(
            client.chat.completions.create(
                model="m", messages=messages, stream=True, stream_options={"include_usage": True}
            )
        )
        far: Any = {"type": "image_url", "image_url": {"url": "http://127.0.0.1/x.png"}}
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": [far]}])
    assert refused.value.param == "messages.0.content.0"
    said = whole.choices[0].message
    assert (said.content, getattr(said, "reasoning_content", None)) == ("Yes", "Hm…")
    thoughts = [getattr(chunk.choices[0].delta, "reasoning_content", "") for chunk in chunks if chunk.choices]
    assert "".join(thoughts) == "Hm…"
    assert all(chunk.usage is None for chunk in chunks), "what Ollama did not count is not 0"
    body = sent(upstream)[0]
    assert body["messages"] == [{"role": "user", "content": "What is it?", "images": ["aGk="]}]
    assert body["think"] == "low"


def test_an_openai_client_gets_errors(upstream: Upstream, served: Served) -> None:
    missing = answer({"error": "model 'm' not found, try pulling it first"}, status=404)
    broken = lines(line(content="Hel"), {"error": "the runner died"})
    upstream.play(missing, broken, path=CHAT)
    with served.client() as client:
        with pytest.raises(openai.NotFoundError, match="try pulling it"):
            client.chat.completions.create(model="m", messages=MESSAGES)
        stream = client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        heard = []
        with pytest.raises(openai.APIError, match="the runner died"):
            heard += [chunk.choices[0].delta.content for chunk in stream]
        stream.close()


@pytest.mark.parametrize(
    ("path", "body", "to"),
    [
        ("chat/completions", {"messages": MESSAGES, "stream": True}, CHAT),
        ("chat/completions", {"messages": MESSAGES}, CHAT),
        ("completions", {"prompt": "Hi", "stream": True}, GENERATE),
        ("embeddings", {"input": "Hi"}, EMBED),
    ],
)
def test_a_client_that_leaves_ends_the_request(
    upstream: Upstream, served: Served, path: str, body: dict[str, Any], to: str
) -> None:
    upstream.play(lines({"response": "x", **line(content="x")}, stall=True), path=to)
    with served.begin(f"/v1/{path}", {"model": "m", **body}):
        eventually(lambda: sent(upstream, to))
    seen = next(seen for seen in upstream.requests if seen.path == to)
    eventually(lambda: seen.closed_at is not None)
