"""Streams that break off after their first token, and go on at another replica."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from headrace.backends.replicas.resume import way_of
from headrace.types import Conversation, Format, GenerateRequest, Message, Sampling, Texts, Tool
from tests.backends.replicas.scripts import Pool, pool
from tests.serving import events, eventually
from tests.upstream import Answer, Seen, answer, sse

CHAT = Conversation((Message("user", "hi"),))


def chunk(text: str, prompt: int, completion: int, reason: str | None = None) -> dict[str, Any]:
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}], "usage": usage}


BROKEN = Answer(pieces=sse(chunk("Hel", 20, 2), chunk("lo", 20, 3)), cut=True)
REST = Answer(pieces=sse(chunk(" wor", 23, 1), chunk("ld", 23, 2, "stop"), "[DONE]"))
WHOLE = Answer(pieces=sse(chunk("Hello w", 20, 4), chunk("orld", 20, 5, "stop"), "[DONE]"))


@pytest.fixture(scope="module")
def shared() -> Iterator[Pool]:
    with pool(2, resume="same-model") as found:
        yield found


@pytest.fixture
def two(shared: Pool) -> Pool:
    shared.reset(WHOLE)
    for replica in shared.backend.members:
        replica.breaker.close()
    eventually(lambda: shared.states() == ["ready"] * 2, within_s=60)
    return shared


def play(two: Pool, *answers: Answer) -> list[Seen]:
    """The requests, in the order in which they came; they get these answers."""
    seen: list[Seen] = []

    def choose(request: Seen) -> Answer:
        seen.append(request)
        return answers[min(len(seen), len(answers)) - 1]

    for upstream in two.upstreams.values():
        upstream.chooses = choose
    return seen


def streamed(two: Pool, **members: Any) -> tuple[str, dict[str, Any]]:
    """The text of a streamed chat, and its last event with data."""
    body = {"max_tokens": 9, "stream_options": {"include_usage": True}, **members}
    *found, _ = events(two.chat("s", **body))
    pieces = [choice["delta"].get("content") or "" for event in found for choice in event.get("choices", [])]
    return "".join(pieces), found[-1]


def test_the_rest_is_asked_for_with_the_text_so_far(two: Pool) -> None:
    seen = play(two, BROKEN, REST)
    text, last = streamed(two)
    assert text == "Hello world"
    usage = last["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (20, 5, 25)
    first, second = (request.body for request in seen)
    assert first["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    assert second["messages"] == [*first["messages"], {"role": "assistant", "content": "Hello"}]
    assert (second["continue_final_message"], second["add_generation_prompt"]) == (True, False)
    assert second["max_tokens"] == 6


def test_a_completion_goes_on_with_a_longer_prompt(two: Pool) -> None:
    def texts(*chunks: dict[str, Any]) -> list[Any]:
        made = []
        for one in chunks:
            (choice,) = one["choices"]
            made.append({**one, "choices": [{**choice, "text": choice["delta"]["content"]}]})
        return made

    broken = Answer(pieces=sse(*texts(chunk("Hel", 20, 2), chunk("lo", 20, 3))), cut=True)
    seen = play(two, broken, Answer(pieces=sse(*texts(chunk(" world", 23, 2, "stop")), "[DONE]")))
    body = {"model": "pool:m", "prompt": "Say: ", "stream": True, "max_tokens": 9}
    *found, _ = events(two.served.post("/v1/completions", body))
    assert "".join(event["choices"][0]["text"] for event in found) == "Hello world"
    assert [request.body["prompt"] for request in seen] == ["Say: ", "Say: Hello"]


@pytest.mark.parametrize("members", [{"seed": 1}, {"temperature": 0, "presence_penalty": 1}])
def test_what_depends_on_more_than_the_text_is_computed_again(two: Pool, members: dict[str, Any]) -> None:
    seen = play(two, BROKEN, WHOLE)
    text, last = streamed(two, **members)
    assert text == "Hello world"
    assert (last["usage"]["prompt_tokens"], last["usage"]["completion_tokens"]) == (20, 5)
    assert seen[0].body == seen[1].body


def test_log_probabilities_come_once_however_the_answer_is_cut_into_pieces(two: Pool) -> None:
    def pieces(*texts: str) -> list[dict[str, Any]]:
        """Chunks, each of which has a log probability of each of its letters."""
        made = [chunk(text, 20, 1, "stop" if text is texts[-1] else None) for text in texts]
        for one, text in zip(made, texts, strict=True):
            content: list[dict[str, Any]] = [
                {"token": sign, "logprob": -0.5, "bytes": None, "top_logprobs": []} for sign in text
            ]
            one["choices"][0]["logprobs"] = {"content": content}
        return made

    first = pieces("He", "llo", "!")[:2]
    play(
        two,
        Answer(pieces=sse(*first), cut=True),
        Answer(pieces=sse(*pieces("H", "ello w", "orld"), "[DONE]")),
    )
    body: dict[str, Any] = {"max_tokens": 20, "temperature": 0, "logprobs": True}
    *found, _ = events(two.chat("s", **body))
    choices = [choice for event in found for choice in event.get("choices", [])]
    assert "".join(choice["delta"].get("content") or "" for choice in choices) == "Hello world"
    tokens = [
        one["token"] for choice in choices for one in (choice.get("logprobs") or {}).get("content") or ()
    ]
    assert "".join(tokens) == "Hello world"


def test_an_answer_that_comes_out_differently_is_not_mixed(two: Pool) -> None:
    play(two, BROKEN, Answer(pieces=sse(chunk("Help!", 20, 2, "stop"), "[DONE]")))
    text, last = streamed(two, seed=1)
    assert text == "Hello"
    assert "differently" in last["error"]["message"]


def test_one_that_breaks_again_and_again_ends_with_an_error(two: Pool) -> None:
    seen = play(two, BROKEN)
    text, last = streamed(two)
    assert (text, len(seen)) == ("Hello" * 3, 3)
    assert last["error"]["code"] == "provider_error"


def test_one_that_is_complete_but_for_its_end_is_complete(two: Pool) -> None:
    seen = play(two, BROKEN)
    text, last = streamed(two, max_tokens=3)
    assert (text, len(seen)) == ("Hello", 1)
    assert "error" not in last


def test_without_replicas_that_answer_the_first_error_is_sent(two: Pool) -> None:
    play(two, BROKEN, answer({"error": {"message": "full"}}, status=503))
    text, last = streamed(two)
    assert (text, "error" in last) == ("Hello", True)


@pytest.mark.parametrize(
    ("request_", "way"),
    [
        (GenerateRequest("m", CHAT), "continue"),
        (GenerateRequest("m", CHAT, n=2), None),
        (GenerateRequest("m", CHAT, Sampling(seed=1)), "repeat"),
        (GenerateRequest("m", CHAT, format=Format("json_object")), None),
        (GenerateRequest("m", CHAT, Sampling(temperature=0), format=Format("json_object")), "repeat"),
        (GenerateRequest("m", Conversation(CHAT.messages, (Tool("t"),))), None),
        (GenerateRequest("m", Texts(("a",))), "continue"),
        (GenerateRequest("m", Texts(("a", "b"))), None),
        (GenerateRequest("m", Texts(((1, 2),))), None),
        (GenerateRequest("m", Texts(((1, 2),)), Sampling(temperature=0)), "repeat"),
    ],
)
def test_ways(request_: GenerateRequest, way: str | None) -> None:
    assert way_of(request_) == way
