"""OpenAI's `prediction`: a text that the answer may repeat makes it faster, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from headrace.models.catalog import DEFAULT_MODEL, Model
from tests.conftest import serving_model
from tests.serving import Served, events

ASK = {"role": "user", "content": "Write a short poem about a water mill."}
CHAT: dict[str, Any] = {"model": DEFAULT_MODEL, "messages": [ASK], "temperature": 0, "max_tokens": 40}
PATH = "/v1/chat/completions"
MANY = 20  # of 40 tokens; some are rather guessed from an earlier answer, which does not count


@pytest.fixture(scope="module")
def plain(default_model: Model) -> Iterator[Served]:
    """In float32: elsewhere a step of several tokens rounds differently than one of a single token."""
    with serving_model(default_model, precision="f32", generation_config="none", speculation="off") as served:
        yield served


def answer(server: Served, prediction: object = None, **more: Any) -> dict[str, Any]:
    response = server.post(PATH, {**CHAT, **more, "prediction": prediction})
    assert response.status_code == 200, response.text
    assert "prediction" not in response.headers.get("X-Headrace-Ignored", "")
    found: dict[str, Any] = response.json()
    return found


def text_of(found: dict[str, Any]) -> str:
    content: str = found["choices"][0]["message"]["content"]
    return content


def counts(found: dict[str, Any]) -> tuple[int, int]:
    details = found["usage"]["completion_tokens_details"]
    return details.get("accepted_prediction_tokens", 0), details.get("rejected_prediction_tokens", 0)


def test_the_answer_is_the_same_and_usage_says_how_much_was_predicted(
    exact_server: Served, plain: Served
) -> None:
    expected = answer(plain)
    assert counts(answer(exact_server)) == counts(expected) == (0, 0)
    text = text_of(expected)
    words = text.split(" ")
    wrong = " ".join(word if i % 6 else "granite" for i, word in enumerate(words))
    accepted: dict[str, int] = {}
    for prediction in (text, wrong, "no " * 30):
        found = answer(exact_server, {"type": "content", "content": prediction})
        assert text_of(found) == text
        assert found["usage"]["completion_tokens"] == expected["usage"]["completion_tokens"]
        accepted[prediction], rejected = counts(found)
        assert accepted[prediction] <= found["usage"]["completion_tokens"]
        # A text that repeats itself may be taken up at the wrong place.
        assert (rejected > 0) == (prediction == wrong) or rejected < accepted[prediction] / 4
    assert accepted[text] > MANY
    assert accepted[text] > max(accepted[wrong], accepted["no " * 30])


def test_parts_and_streams_count_too(exact_server: Served) -> None:
    text = text_of(answer(exact_server))
    parts = [{"type": "text", "text": text[:50]}, {"type": "text", "text": text[50:]}]
    options = {"stream": True, "stream_options": {"include_usage": True}}
    request = {**CHAT, **options, "prediction": {"type": "content", "content": parts}}
    chunks = events(exact_server.post(PATH, request))[:-1]
    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"]) == text
    assert counts(chunks[-1])[0] > MANY


def test_openais_client_reads_them(exact_server: Served) -> None:
    text = text_of(answer(exact_server))
    with exact_server.client() as client:
        found = client.chat.completions.create(**CHAT, prediction={"type": "content", "content": text})
    assert found.usage is not None
    assert found.usage.completion_tokens_details is not None
    assert (found.usage.completion_tokens_details.accepted_prediction_tokens or 0) > MANY


def test_a_seeded_request_keeps_its_answer(exact_server: Served) -> None:
    text = text_of(answer(exact_server, seed=1))
    found = answer(exact_server, {"type": "content", "content": text}, seed=1)
    assert text_of(found) == text
    assert counts(found)[0] > 0


@pytest.mark.parametrize("content", ["", "a" * 2**20, "\ud7ff\x00", "<|im_end|>"], ids=len)
def test_any_text_may_be_predicted(exact_server: Served, content: str) -> None:
    assert text_of(answer(exact_server, {"type": "content", "content": content})) == text_of(
        answer(exact_server)
    )


@pytest.mark.parametrize(
    "prediction", ["x", {"type": "file"}, {"type": "content"}, {"type": "content", "content": [{}]}, [], 1]
)
def test_other_shapes_are_refused_by_name(exact_server: Served, prediction: object) -> None:
    response = exact_server.post(PATH, {**CHAT, "prediction": prediction})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "prediction"
