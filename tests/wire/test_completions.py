"""/v1/completions over a scripted backend, through the official client: what reaches the backend, what comes
back, and which member each refusal names.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from headrace.app import create_app
from headrace.backends.fake import FakeBackend
from headrace.collected import Collected
from headrace.config import Config
from headrace.types import Event, Finished, ModelInfo, Started, TextDelta, Texts, TokenLogprob, Usage
from headrace.wire.completions import CompletionBody, completion
from tests.conftest import FakeServer
from tests.serving import Served, events, serving

PATH = "/v1/completions"
INFO = ModelInfo("fake", "fake", 0, 4096, "fp_fake")


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serving(create_app(Config(), [FakeBackend(["Hello"])])) as served:
        yield served


def logprob(text: str, value: float | None, *others: tuple[str, float]) -> TokenLogprob:
    return TokenLogprob(text, text.encode(), value, tuple((other, other.encode(), p) for other, p in others))


# "Say" is the prompt, echoed; two tokens are generated, and the end of the turn
SCRIPT: list[Event] = [
    TextDelta(0, "Say", (logprob("S", None), logprob("ay", -2.0, ("o", -0.5))), 0),
    TextDelta(0, " hi", (logprob(" hi", -0.25, (" hi", -0.25)),), 1),
    TextDelta(0, "!", (logprob("!", -1.0, (".", -0.75)),), 1),
    Finished(0, "stop", Usage(2, 3), 0.0, (logprob("<end>", -0.125, ("<end>", -0.125)),)),
]
OFFSETS = [0, 1, 3, 6, 7]


def ask(server: Served, **members: Any) -> Any:
    response = server.post(PATH, {"model": "fake", "prompt": "hi", **members})
    assert response.status_code == 200, response.text
    return events(response) if members.get("stream") else response.json()


def last_request(server: Served) -> Any:
    assert isinstance(server.backend, FakeBackend)
    return server.backend.requests[-1]


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("one", ("one",)),
        ("", ("",)),
        (["one"], ("one",)),
        (["one", ""], ("one", "")),
        ([1, 2, 0], ((1, 2, 0),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
    ],
)
def test_prompt_in_each_of_its_forms(fake_server: FakeServer, prompt: Any, texts: Any) -> None:
    server = fake_server()
    with server.client() as client:
        answer = client.completions.create(model="fake", prompt=prompt, n=2)
    assert last_request(server).prompt == Texts(texts)
    assert last_request(server).num_choices == 2 * len(texts)
    assert [choice.index for choice in answer.choices] == list(range(2 * len(texts)))
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(texts)  # each is counted once: the script's have one token
    assert answer.usage.completion_tokens == 2 * 2 * len(texts)


def test_members_reach_the_backend(fake_server: FakeServer) -> None:
    server = fake_server()
    members = {"suffix": "end", "echo": True, "max_tokens": 0, "logprobs": 20, "n": 2, "best_of": 3}
    ask(server, **members, priority=3, timeout=30, guided_regex="a+", logit_bias={"7": -1})
    request = last_request(server)
    assert request.prompt == Texts(("hi",), "end", True)
    assert (request.sampling.max_tokens, request.sampling.logprobs, request.n) == (0, 20, 3)
    assert (request.priority, request.timeout_s, request.format.kind) == (3, 30, "regex")
    assert request.sampling.logit_bias == ((7, -1),)
    ask(server, suffix="", best_of=1, echo=False)
    request = last_request(server)
    assert (request.prompt, request.n, request.sampling.logprobs) == (Texts(("hi",)), 1, None)


def test_best_of_asks_for_logprobs_and_shows_none(fake_server: FakeServer) -> None:
    server = fake_server()
    answer = ask(server, best_of=4, n=2)
    assert (last_request(server).n, last_request(server).sampling.logprobs) == (4, 0)
    assert [choice["logprobs"] for choice in answer["choices"]] == [None, None]
    assert answer["usage"]["completion_tokens"] == 4 * 2


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("prompt", {"prompt": []}),
    ("prompt.1", {"prompt": ["a", 1]}),
    ("prompt.1", {"prompt": [1, "a"]}),
    ("prompt.1", {"prompt": [[1], "a"]}),
    ("prompt.1", {"prompt": [[1], []]}),
    ("prompt.1.1", {"prompt": [[1], [2, "a"]]}),
    ("prompt.0", {"prompt": [-1]}),
    ("prompt.0", {"prompt": [True]}),
    ("prompt.0", {"prompt": [1.5]}),
    ("prompt.0", {"prompt": [None]}),
    ("prompt", {"prompt": ["a"] * 1025}),
    ("prompt", {"prompt": [[1]] * 1025}),
    ("max_tokens", {"max_tokens": 0}),
    ("max_tokens", {"max_tokens": -1, "echo": True}),
    ("best_of", {"best_of": 0}),
    ("best_of", {"best_of": 129}),
    ("best_of", {"best_of": 1, "n": 2}),
    ("best_of", {"best_of": 2, "stream": True}),
    ("logprobs", {"logprobs": -1}),
    ("logprobs", {"logprobs": 21}),
    ("logprobs", {"logprobs": True}),
    ("echo", {"echo": "yes"}),
    ("suffix", {"suffix": 5}),
    ("stream_options", {"stream_options": {"include_usage": True}}),
    ("guided_choice", {"guided_choice": []}),
    ("guided_regex", {"guided_regex": "a", "response_format": {"type": "json_object"}}),
    ("logit_bias.x", {"logit_bias": {"x": 1}}),
    ("timeout", {"timeout": 0}),
    ("priority", {"priority": "high"}),
]


@pytest.mark.parametrize(("param", "members"), WRONG)
def test_mistake_is_400_and_names_the_member(server: Served, param: str, members: dict[str, Any]) -> None:
    with server.client() as client, pytest.raises(openai.BadRequestError) as raised:
        client.post(PATH[3:], body={"model": "fake", "prompt": "x", **members}, cast_to=object)
    assert (raised.value.param, raised.value.type) == (param, "invalid_request_error")
    assert server.gateway.num_active == 0


def test_echoed_prompt_has_logprobs_and_the_end_of_the_turn_too(fake_server: FakeServer) -> None:
    server = fake_server(FakeBackend(SCRIPT))
    with server.client() as client:
        answer = client.completions.create(model="fake", prompt="Say", echo=True, logprobs=1)
    choice = answer.choices[0]
    assert (choice.text, choice.finish_reason) == ("Say hi!", "stop")
    assert choice.logprobs is not None
    assert choice.logprobs.to_dict() == {
        "tokens": ["S", "ay", " hi", "!", "<end>"],
        "token_logprobs": [None, -2.0, -0.25, -1.0, -0.125],
        "top_logprobs": [
            None,
            {"o": -0.5, "ay": -2.0},
            {" hi": -0.25},
            {".": -0.75, "!": -1.0},
            {"<end>": -0.125},
        ],
        "text_offset": OFFSETS,
    }


def test_without_logprobs_there_are_none(fake_server: FakeServer) -> None:
    server = fake_server(FakeBackend(SCRIPT))
    assert ask(server)["choices"][0]["logprobs"] is None
    assert all(chunk["choices"][0]["logprobs"] is None for chunk in ask(server, stream=True)[:-1])


def test_stream_tells_logprobs_with_running_offsets(fake_server: FakeServer) -> None:
    server = fake_server(FakeBackend([Started(0, 0.001, 0.002), *SCRIPT]))
    with server.client() as client:
        stream = client.completions.create(model="fake", prompt="Say", echo=True, logprobs=1, stream=True)
        choices = [chunk.choices[0] for chunk in stream]
    assert "".join(choice.text for choice in choices) == "Say hi!"
    all_logprobs = [choice.logprobs for choice in choices if choice.logprobs is not None]
    assert [offset for logprobs in all_logprobs for offset in logprobs.text_offset or ()] == OFFSETS
    assert [token for logprobs in all_logprobs for token in logprobs.tokens or ()][-1] == "<end>"


def test_stream_of_several_choices_keeps_their_offsets_apart(fake_server: FakeServer) -> None:
    *chunks, _ = ask(fake_server(FakeBackend(SCRIPT)), stream=True, logprobs=0, n=2)
    for index in (0, 1):
        mine = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert [offset for choice in mine for offset in choice["logprobs"]["text_offset"]] == OFFSETS


def test_impossible_token_is_written_as_a_number(fake_server: FakeServer) -> None:
    script: list[Event] = [TextDelta(0, "a", (logprob("a", float("-inf")),), 1)]
    logprobs = ask(fake_server(FakeBackend(script)), logprobs=0)["choices"][0]["logprobs"]
    assert (logprobs["token_logprobs"], logprobs["top_logprobs"]) == ([-9999.0], [{"a": -9999.0}])


def test_usage_so_far_is_in_every_chunk(fake_server: FakeServer) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    *chunks, last, done = ask(fake_server(FakeBackend(SCRIPT)), stream=True, stream_options=options)
    assert done == "[DONE]"
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 3
    assert chunks[-1]["usage"] == last["usage"]
    assert all("usage" in chunk for chunk in chunks)


def choice(index: int, *values: float) -> list[Event]:
    """One of a backend: the prompt's two tokens, then one token each value."""
    tokens = tuple(logprob("x", value) for value in values)
    echoed = TextDelta(index, "Say", (logprob("S", None), logprob("ay", -9.0)))
    return [
        echoed,
        TextDelta(index, f" {index}", tokens, len(tokens)),
        Finished(index, "stop", Usage(2, len(tokens))),
    ]


def test_best_of_keeps_the_most_probable_of_each_prompt_in_order() -> None:
    body = CompletionBody.model_validate({"model": "fake", "prompt": ["a", "b"], "n": 2, "best_of": 3})
    collected = Collected(3)
    values = [[-3.0], [-1.0, -1.0, -1.0], [-2.0], [-0.5], [-4.0], [-0.125, -0.25]]
    for index, of_choice in enumerate(values):
        for event in choice(index, *of_choice):
            collected.push(event)
    answer = completion(body, INFO, collected)
    assert [(best["index"], best["text"]) for best in answer["choices"]] == [
        (0, "Say 1"),
        (1, "Say 2"),
        (2, "Say 5"),
        (3, "Say 3"),
    ]
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (4, 9)
