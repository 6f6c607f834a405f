"""What an OpenAI-compatible provider is sent, and what of its answers no chat shows."""

import asyncio
import base64
import struct
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import pytest

from headrace.backends.openai import OpenAIBackend
from headrace.config import ProviderConfig
from headrace.errors import (
    ContextTooLong,
    ProviderError,
    ProviderKeyRefused,
    ProviderUnreachable,
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
    ModelInfo,
    Sampling,
    TextDelta,
    Texts,
    TokenLogprob,
    Tool,
    ToolCall,
    ToolChoice,
    Usage,
)
from tests.backends.two_ways import COUNTED, END, STOP, TEXT, USAGE, chunk, head
from tests.serving import eventually
from tests.upstream import Answer, Upstream, answer, scripted, sse

T = TypeVar("T")
HI = Conversation((Message("user", "hi"),))
ANSWERED = Answer(pieces=sse(*TEXT, *END))
COMPLETED = Answer(pieces=sse({"choices": [{"index": 0, "text": "x", "finish_reason": "stop"}]}, "[DONE]"))


@pytest.fixture
def provider() -> Iterator[Upstream]:
    with scripted() as found:
        found.always("/v1/models", answer({"data": []}))
        yield found


def _with(
    provider: Upstream, use: Callable[[OpenAIBackend], Awaitable[T]], *, models: tuple[str, ...] = ()
) -> T:
    async def run() -> T:
        config = ProviderConfig(kind="openai", base_url=provider.url + "/v1/", timeout_s=60, models=models)
        backend = OpenAIBackend("p", config, None)
        await backend.start()
        try:
            return await use(backend)
        finally:
            await backend.aclose()

    return asyncio.run(run())


def _ask(provider: Upstream, request: GenerateRequest, *played: Answer) -> list[Event]:
    async def ask(backend: OpenAIBackend) -> list[Event]:
        async with backend.generate(request) as events:
            return [event async for event in events]

    provider.play(*played)
    return _with(provider, ask)


def _sent(provider: Upstream, request: GenerateRequest) -> dict[str, Any]:
    """What of the body is not always there."""
    is_chat = isinstance(request.prompt, Conversation)
    _ask(provider, request, ANSWERED if is_chat else COMPLETED)
    seen = provider.posts[-1]
    assert seen.path == ("/v1/chat/completions" if is_chat else "/v1/completions")
    body: dict[str, Any] = seen.body
    assert body.pop("model") == "m"
    assert body.pop("stream") is True
    assert body.pop("stream_options") == {"include_usage": True}
    return body


def test_a_plain_question_is_sent_plainly(provider: Upstream) -> None:
    assert _sent(provider, GenerateRequest("m", HI)) == {"messages": [{"role": "user", "content": "hi"}]}
    assert "authorization" not in provider.posts[-1].headers
    assert _sent(provider, GenerateRequest("m", Texts(("hi",)))) == {"prompt": "hi"}


def test_sampling_is_sent_as_given(provider: Upstream) -> None:
    sampling = Sampling(
        max_tokens=5, temperature=0.0, top_p=0.5, top_k=0, min_p=0.1, repetition_penalty=1.1,
        frequency_penalty=0.2, presence_penalty=-0.3, logit_bias=((7, -100.0),), seed=0, stop=("a", "b"),
        stop_token_ids=(1, 2), ignore_eos=True, min_tokens=3, skip_special_tokens=False,
        truncate_prompt_tokens=-1,
    )  # fmt: skip
    expected = {
        "max_tokens": 5, "temperature": 0.0, "top_p": 0.5, "top_k": 0, "min_p": 0.1,
        "repetition_penalty": 1.1, "frequency_penalty": 0.2, "presence_penalty": -0.3,
        "logit_bias": {"7": -100.0}, "seed": 0,
        "stop": ["a", "b"], "stop_token_ids": [1, 2], "ignore_eos": True, "min_tokens": 3,
        "skip_special_tokens": False, "truncate_prompt_tokens": -1,
    }  # fmt: skip
    sent = _sent(provider, GenerateRequest("m", HI, sampling))
    assert {name: value for name, value in sent.items() if name != "messages"} == expected
    assert _sent(provider, GenerateRequest("m", Texts(("x",)), sampling)) == {**expected, "prompt": "x"}


@pytest.mark.parametrize(
    ("logprobs", "sent"), [(0, {"logprobs": True}), (3, {"logprobs": True, "top_logprobs": 3})]
)
def test_logprobs_are_asked_for(provider: Upstream, logprobs: int, sent: dict[str, Any]) -> None:
    sampling = Sampling(logprobs=logprobs)
    assert {**sent}.items() <= _sent(provider, GenerateRequest("m", HI, sampling)).items()
    assert _sent(provider, GenerateRequest("m", Texts(("x",)), sampling))["logprobs"] == logprobs


def test_prompts_are_texts_or_tokens(provider: Upstream) -> None:
    texts = Texts(((1, 2), (3,)), suffix="s", echo=True)
    ends = [{"index": index, "text": "", "finish_reason": "stop"} for index in range(4)]
    _ask(provider, GenerateRequest("m", texts, n=2), Answer(pieces=sse({"choices": ends})))
    body = provider.posts[-1].body
    assert (body["prompt"], body["suffix"], body["echo"], body["n"]) == ([[1, 2], [3]], "s", True, 2)
    with pytest.raises(UnsupportedParameter) as caught:
        _ask(provider, GenerateRequest("m", Texts(("a", (1,)))))
    assert caught.value.param == "prompt"


WEATHER = Tool("weather", "tells it", {"type": "object"}, strict=True)
TIME = Tool("time")


def _tools(provider: Upstream, choice: ToolChoice, *, parallel: bool = True) -> dict[str, Any]:
    prompt = Conversation(HI.messages, (WEATHER, TIME), choice, parallel)
    sent = _sent(provider, GenerateRequest("m", prompt))
    del sent["messages"]
    return sent


def test_tools_are_sent_with_the_choice_among_them(provider: Upstream) -> None:
    weather = {"name": "weather", "description": "tells it", "parameters": {"type": "object"}, "strict": True}
    first, second = (
        {"type": "function", "function": weather},
        {"type": "function", "function": {"name": "time"}},
    )
    both = [first, second]
    named = {"type": "function", "function": {"name": "time"}}
    assert _tools(provider, ToolChoice()) == {"tools": both}
    assert _tools(provider, ToolChoice(), parallel=False) == {"tools": both, "parallel_tool_calls": False}
    assert _tools(provider, ToolChoice("none")) == {"tools": both, "tool_choice": "none"}
    assert _tools(provider, ToolChoice("required")) == {"tools": both, "tool_choice": "required"}
    assert _tools(provider, ToolChoice("auto", ("weather",))) == {"tools": [first]}
    assert _tools(provider, ToolChoice("required", ("time",))) == {"tools": both, "tool_choice": named}
    allowed = ToolChoice("required", ("time", "weather"))
    assert _tools(provider, allowed) == {"tools": both, "tool_choice": "required"}


CLOSED = {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False}
# values and names that look like schemas, but are none
LIKE_SCHEMAS = {
    "a": {"enum": [{"type": "object"}, {"properties": {}}]},
    "properties": {"const": {"type": "object"}},
}
STRICT = {**CLOSED, "properties": LIKE_SCHEMAS, "required": ["a", "properties"]}
OPEN_INSIDE = {**CLOSED, "properties": {"a": {"items": {"type": "object"}}}, "required": ["a"]}
FORMATS = [
    (
        Format("json_schema", STRICT),
        {"type": "json_schema", "json_schema": {"name": "answer", "schema": STRICT, "strict": True}},
    ),
    (
        Format("json_schema", OPEN_INSIDE),
        {"type": "json_schema", "json_schema": {"name": "answer", "schema": OPEN_INSIDE}},
    ),
    (Format("json_object"), {"type": "json_object"}),
    (
        Format("json_schema", {**CLOSED, "required": ["a"]}),
        {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": {**CLOSED, "required": ["a"]}, "strict": True},
        },
    ),
    (
        Format("json_schema", CLOSED),
        {"type": "json_schema", "json_schema": {"name": "answer", "schema": CLOSED}},
    ),
]


@pytest.mark.parametrize(("format", "sent"), FORMATS)
def test_a_format_is_sent(provider: Upstream, format: Format, sent: dict[str, Any]) -> None:
    assert _sent(provider, GenerateRequest("m", HI, format=format))["response_format"] == sent


def test_a_format_of_no_common_dialect_is_not_carried() -> None:
    assert OpenAIBackend.features.isdisjoint({Feature.REGEX, Feature.CHOICE, Feature.GRAMMAR})


def test_messages_are_sent_whole(provider: Upstream) -> None:
    image = Media("image", data="aGk=", media_type="image/png")
    file = Media("document", data="aGk=", media_type="application/pdf", name="a.pdf")
    messages = (
        Message("system", "be brief", name="boss"),
        Message("user", "look", parts=("look", image, Media("image", url="https://x.invalid/y.png"), file)),
        Message("assistant", "", tool_calls=(ToolCall("c1", "f", '{"a": 1}'),), reasoning="hm"),
        Message("tool", "42", tool_call_id="c1"),
    )
    prompt = Conversation(
        messages, reasoning_effort="low", template_kwargs={"x": 1}, continue_final_message=True,
        add_generation_prompt=False,
    )  # fmt: skip
    data = "data:application/pdf;base64,aGk="
    assert _sent(provider, GenerateRequest("m", prompt)) == {
        "messages": [
            {"role": "system", "content": "be brief", "name": "boss"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "look"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
                    {"type": "image_url", "image_url": {"url": "https://x.invalid/y.png"}},
                    {"type": "file", "file": {"filename": "a.pdf", "file_data": data}},
                ],
            },
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
                ],
                "reasoning_content": "hm",
            },
            {"role": "tool", "content": "42", "tool_call_id": "c1"},
        ],
        "reasoning_effort": "low",
        "add_generation_prompt": False,
        "continue_final_message": True,
        "chat_template_kwargs": {"x": 1},
    }
    by_url = Message("user", "", parts=(Media("document", url="https://x.invalid/y.pdf"),))
    with pytest.raises(UnsupportedParameter):
        _ask(provider, GenerateRequest("m", Conversation((by_url,))))


def test_openai_itself_wants_the_newer_name_of_max_tokens() -> None:
    request = GenerateRequest("m", HI, Sampling(max_tokens=5))
    _, body = OpenAIBackend("o", ProviderConfig(kind="openai"), "k").write(request)
    assert (body["max_completion_tokens"], "max_tokens" in body) == (5, False)


def _ends(events: list[Event]) -> list[Finished]:
    return [event for event in events if isinstance(event, Finished)]


def test_a_usage_that_is_not_reported_is_not_known(provider: Upstream) -> None:
    ends = _ends(_ask(provider, GenerateRequest("m", HI), Answer(pieces=sse(*TEXT, *END))))
    assert ends == [Finished(0, "stop", Usage(20, 5, 16, 2))]
    untold_usages: list[Any] = [None, {}]
    for usage in untold_usages:
        pieces = sse(*TEXT, {**STOP, "usage": usage}, "[DONE]")
        untold = _ends(_ask(provider, GenerateRequest("m", HI), Answer(pieces=pieces)))
        assert untold == [Finished(0, "stop", Usage(0, 0, is_known=False))]


def test_usage_without_details_and_with_null_in_it(provider: Upstream) -> None:
    counted = {"prompt_tokens": 3, "completion_tokens": None, "prompt_tokens_details": None}
    events = _ask(
        provider, GenerateRequest("m", HI), Answer(pieces=sse(STOP, head(choices=[], usage=counted)))
    )
    assert _ends(events) == [Finished(0, "stop", Usage(3, 0))]


def test_several_choices_share_one_usage(provider: Upstream) -> None:
    ends = [head(choices=[{"index": index, "delta": {}, "finish_reason": "stop"}]) for index in (1, 0)]
    events = _ask(provider, GenerateRequest("m", HI, n=2), Answer(pieces=sse(*ends, COUNTED)))
    assert [end.usage for end in _ends(events)] == [Usage(20, 5, 16, 2), Usage(0, 0)]


def test_logprobs_of_text_completions(provider: Upstream) -> None:
    logprobs = {
        "tokens": ["a", "é"],
        "token_logprobs": [None, -0.5],
        "top_logprobs": [None, {"é": -0.5, "e": -1}],
        "text_offset": [0, 1],
    }
    choice = {"index": 0, "text": "aé", "logprobs": logprobs, "finish_reason": "stop"}
    events = _ask(provider, GenerateRequest("m", Texts(("",))), Answer(pieces=sse({"choices": [choice]})))
    second = TokenLogprob("é", b"\xc3\xa9", -0.5, (("é", b"\xc3\xa9", -0.5), ("e", b"e", -1.0)))
    assert events[0] == TextDelta(0, "aé", (TokenLogprob("a", b"a", None), second))


def test_what_is_refused_is_raised_on_entering(provider: Upstream) -> None:
    async def enter(backend: OpenAIBackend) -> None:
        async with backend.generate(GenerateRequest("m", HI)):
            raise AssertionError("entered")

    provider.play(
        answer({"error": {"message": "no"}}, status=401),
        answer({"error": {"message": "maximum context length is 5", "code": "x"}}, status=400),
        answer({"error": {"message": "later"}}, status=503),
    )
    for kind in (ProviderKeyRefused, ContextTooLong, ProviderUnreachable):
        with pytest.raises(kind):
            _with(provider, enter)


ROWS = [{"index": 1, "embedding": [3, 4.5]}, {"index": 0, "embedding": [1, 2]}]


def _embed(provider: Upstream, request: EmbedRequest, value: object) -> Any:
    provider.play(answer(value))
    return _with(provider, lambda backend: backend.embed(request))


def test_embeddings_come_in_order(provider: Upstream) -> None:
    request = EmbedRequest("m", ("a", "b"), dimensions=2)
    found = _embed(provider, request, {"data": ROWS, "usage": {"prompt_tokens": 7}})
    assert (found.vectors.tolist(), found.vectors.dtype, found.prompt_tokens) == ([[1, 2], [3, 4.5]], "f4", 7)
    seen = provider.posts[-1]
    assert seen.path == "/v1/embeddings"
    assert seen.body == {"model": "m", "input": ["a", "b"], "encoding_format": "float", "dimensions": 2}


def test_embeddings_in_base64_are_read(provider: Upstream) -> None:
    packed = base64.b64encode(struct.pack("<2f", 1, 0.5)).decode()
    found = _embed(provider, EmbedRequest("m", ((1, 2),)), {"data": [{"index": 0, "embedding": packed}]})
    assert found.vectors.tolist() == [[1, 0.5]]
    assert provider.posts[-1].body["input"] == [[1, 2]]


@pytest.mark.parametrize(
    "value",
    [
        [], {}, {"data": 5}, {"data": ROWS[:1]}, {"data": [{"index": 0, "embedding": "?"}] * 2},
        {"data": [ROWS[0], {"index": 0, "embedding": [1]}]},
        {"data": [{"index": 0, "embedding": None}] * 2}, {"data": [{"index": 0, "embedding": [None]}] * 2},
    ],
)  # fmt: skip
def test_embeddings_that_are_none_are_a_failure(provider: Upstream, value: object) -> None:
    with pytest.raises(ProviderError, match="no embeddings"):
        _embed(provider, EmbedRequest("m", ("a", "b")), value)


def test_pooling_is_the_providers_own() -> None:
    assert OpenAIBackend.features.isdisjoint({Feature.POOLING, Feature.UNSCALED_VECTORS})


def test_models_are_listed(provider: Upstream) -> None:
    listed = [{"id": "m", "created": 5, "owned_by": "x", "max_model_len": 99}, {"id": "n", "created": None}]
    provider.play(*[answer({"data": listed})] * 3, path="/v1/models")
    found = _with(provider, lambda backend: backend.list_models())
    assert [(info.id, info.owned_by, info.created, info.max_model_len) for info in found] == [
        ("m", "p", 5, 99), ("n", "p", 0, None),
    ]  # fmt: skip


@pytest.mark.parametrize("value", [[], {}, {"data": 5}, {"data": [5]}, {"data": [{}]}])
def test_a_list_of_models_that_is_none_is_a_failure(provider: Upstream, value: object) -> None:
    provider.always("/v1/models", answer(value))
    with pytest.raises(ProviderError, match="no list of models"):
        _with(provider, lambda backend: backend.list_models())


def test_only_allowed_models_are_served(provider: Upstream) -> None:
    async def refresh(backend: OpenAIBackend) -> list[str]:
        await backend.refresh()
        assert (backend.find("m") is None, backend.find("other") is None) == (False, True)
        return [info.id for info in backend.models()]

    provider.always("/v1/models", answer({"data": [{"id": "m"}, {"id": "other"}]}))
    assert _with(provider, refresh, models=("m",)) == ["m"]


def test_an_allowed_model_that_is_not_listed_is_served(provider: Upstream) -> None:
    async def refresh(backend: OpenAIBackend) -> ModelInfo | None:
        await backend.refresh()
        return backend.find("hidden")

    provider.always("/v1/models", answer({"data": [{"id": "m"}]}))
    assert _with(provider, refresh, models=("hidden",)) == ModelInfo("hidden", "p", 0, None, None)


def test_a_list_that_cannot_be_had_leaves_the_last_one(provider: Upstream) -> None:
    provider.always("/v1/models", answer({"error": "later"}, status=503))
    provider.play(answer({"data": [{"id": "m"}]}), path="/v1/models")

    async def once(backend: OpenAIBackend) -> list[str]:
        await asyncio.to_thread(eventually, backend.models)  # it asks by itself when it starts
        with pytest.raises(ProviderUnreachable):
            await backend.refresh()
        return [info.id for info in backend.models()]

    assert _with(provider, once) == ["m"]


def test_chunk_without_a_delta_is_nothing(provider: Upstream) -> None:
    pieces = sse(
        {**chunk(), "choices": [{"index": 0, "delta": None}]}, {"usage": USAGE, "choices": None}, *END
    )
    assert len(_ask(provider, GenerateRequest("m", HI), Answer(pieces=pieces))) == 1
