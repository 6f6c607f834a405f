"""/v1/responses over our own engine."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.api.responses_client import WEATHER, streamed, strict
from tests.serving import Served

MODEL = "smollm2-135m-instruct"


def test_tool_turn(server: Served) -> None:
    with strict(server) as client:
        first = client.responses.create(
            model=MODEL,
            input="How is the weather in Paris?",
            tools=[WEATHER],
            tool_choice="required",
            max_output_tokens=100,
        )
        call = first.output[-1]
        assert call.type == "function_call"
        assert "city" in json.loads(call.arguments) or call.arguments == "{}"
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "20 °C"}
        body = {
            "input": [result],
            "previous_response_id": first.id,
            "tools": [WEATHER],
            "tool_choice": "none",
        }
        events = streamed(server, {"model": MODEL, "max_output_tokens": 8, **body})
        second = events[-1]["response"]
        assert second["status"] in ("completed", "incomplete")
        assert first.usage is not None
        assert second["usage"]["input_tokens"] > first.usage.input_tokens


def test_answer_has_the_form_that_was_asked_for(server: Served) -> None:
    schema = {
        "type": "object",
        "properties": {"color": {"enum": ["blue", "green"]}},
        "required": ["color"],
        "additionalProperties": False,
    }
    format: Any = {"type": "json_schema", "name": "sky", "schema": schema, "strict": True}
    with strict(server) as client:
        made = client.responses.create(
            model=MODEL,
            input="What color is the sky?",
            text={"format": format},
            include=["message.output_text.logprobs"],
            top_logprobs=2,
        )
    assert json.loads(made.output_text)["color"] in ("blue", "green")
    whole: Any = made.to_dict()
    logprobs = whole["output"][0]["content"][0]["logprobs"]
    assert "".join(token["token"] for token in logprobs) == made.output_text
    assert len(logprobs[0]["top_logprobs"]) == 2


def test_what_is_too_long_is_refused_or_shortened(small_server: Served) -> None:
    with strict(small_server) as client:
        conversation = client.conversations.create().id
        for n in range(4):
            client.responses.create(
                model=MODEL,
                input=f"{n} " * 20,
                conversation=conversation,
                truncation="auto",
                max_output_tokens=8,
            )
        with pytest.raises(openai.BadRequestError) as caught:
            client.responses.create(model=MODEL, input="9 " * 40, conversation=conversation)
        assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input")
        made = client.responses.create(
            model=MODEL, input="9 " * 40, conversation=conversation, truncation="auto", max_output_tokens=8
        )
        assert made.usage is not None
        assert made.usage.input_tokens <= 248
        assert len(client.conversations.items.list(conversation, limit=100).data) == 10
        with pytest.raises(openai.BadRequestError):
            client.responses.create(model=MODEL, input="9 " * 400, truncation="auto")


def test_tokens_are_counted_as_they_are_used(server: Served) -> None:
    with strict(server) as client:
        counted = client.responses.input_tokens.count(
            model=MODEL, input="Hello there", instructions="Be kind."
        )
        made = client.responses.create(
            model=MODEL, input="Hello there", instructions="Be kind.", max_output_tokens=1
        )
        assert made.usage is not None
        assert counted.input_tokens == made.usage.input_tokens
        assert made.status == "incomplete"
        assert made.incomplete_details is not None
        assert made.incomplete_details.reason == "max_output_tokens"
