"""smolagents: its model class, and an agent that calls a tool."""

from __future__ import annotations

import json

from smolagents import ChatMessage, OpenAIModel, Tool, ToolCallingAgent
from turns import BASE_URL, KEY, MODEL, QUESTION, run, turn

model = OpenAIModel(
    model_id=MODEL, api_base=BASE_URL, api_key=KEY, temperature=0, max_tokens=100,
    client_kwargs={"max_retries": 0, "timeout": 120},
)  # fmt: skip
ASKED = [ChatMessage(role="user", content=[{"type": "text", "text": QUESTION}])]
SCHEMA = {
    "type": "object",
    "properties": {"color": {"enum": ["red", "green", "blue"]}},
    "required": ["color"],
    "additionalProperties": False,
}


class Weather(Tool):
    name = "get_weather"
    description = "The weather in a city"
    inputs = {"city": {"type": "string", "description": "Its name", "enum": ["Paris", "London"]}}  # noqa: RUF012
    output_type = "string"

    def forward(self, city: str) -> str:
        return f"22 degrees in {city}"


@turn("generate")
def plain() -> None:
    answer = model.generate(ASKED, stop_sequences=["Observation:", "Calling tools:"])
    assert answer.content
    assert answer.token_usage.output_tokens > 0


@turn("generate, streamed")
def stream() -> None:
    pieces = [delta.content or "" for delta in model.generate_stream(ASKED)]
    assert "".join(pieces) == model.generate(ASKED).content


@turn("structured")
def structured() -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "color", "schema": SCHEMA, "strict": True}}
    assert set(json.loads(model.generate(ASKED, response_format=wanted).content)) == {"color"}


@turn("a required tool call")
def tool_turn() -> None:
    answer = model.generate(ASKED, tools_to_call_from=[Weather()])
    call = answer.tool_calls[0]
    assert call.function.name == "get_weather"
    assert set(json.loads(call.function.arguments)) == {"city"}


@turn("an agent of two steps")
def agent() -> None:
    """It calls a tool, gets its result and goes on; a model this small need not come to an end."""
    steps = list(ToolCallingAgent(tools=[Weather()], model=model, max_steps=2, verbosity_level=0).run(
        "What is the weather in Paris?", stream=True
    ))  # fmt: skip
    assert steps


if __name__ == "__main__":
    run()
