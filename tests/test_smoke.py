"""What the project must show first: a real model, through the official client."""

from __future__ import annotations

import openai
from openai.types.chat import ChatCompletionMessageParam

from headrace.models.catalog import DEFAULT_MODEL
from tests.serving import Served

SKY: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What color is the sky?"}]


def test_the_sky_is_blue_whole_and_streamed(exact_server: Served) -> None:
    """In float32. In bfloat16 the second answer may differ at a tie: its prompt is cached."""
    with exact_server.client() as client:
        completions = client.chat.completions
        whole = completions.create(model=DEFAULT_MODEL, messages=SKY, temperature=0)
        stream = completions.create(model=DEFAULT_MODEL, messages=SKY, temperature=0, stream=True)
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    text = whole.choices[0].message.content
    assert text is not None
    assert "blue" in text
    assert streamed == text


def test_paris_is_the_capital_of_france(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=DEFAULT_MODEL, prompt="The capital of France is", temperature=0)
    assert answer.choices[0].text.strip().startswith("Paris")
