"""PydanticAI, which validates what it gets strictly."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field
from pydantic_ai import Agent, NativeOutput, ToolDefinition
from pydantic_ai.direct import model_request
from pydantic_ai.messages import ModelRequest, ToolCallPart, ToolReturnPart, UserPromptPart
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel, OpenAIResponsesModelSettings
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings
from turns import BASE_URL, KEY, MODEL, QUESTION, run, turn

provider = OpenAIProvider(base_url=BASE_URL, api_key=KEY)
model = OpenAIChatModel(MODEL, provider=provider)
responses = OpenAIResponsesModel(MODEL, provider=provider)
GREEDY = ModelSettings(temperature=0, max_tokens=100, timeout=120)
BRIEF = GREEDY | ModelSettings(max_tokens=24)


class Color(BaseModel):
    """A color."""

    name: Literal["red", "green", "blue"]
    brightness: Annotated[int, Field(ge=0, le=100)]


WEATHER = ToolDefinition(
    name="get_weather",
    description="The weather in a city",
    parameters_json_schema={
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "London"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
)


@turn("run")
async def plain() -> None:
    answer = await Agent(model, model_settings=GREEDY).run(QUESTION)
    assert answer.output
    assert answer.usage.output_tokens > 0


@turn("run, streamed")
async def stream() -> None:
    agent = Agent(model, model_settings=GREEDY)
    async with agent.run_stream(QUESTION) as answer:
        pieces = [piece async for piece in answer.stream_text(delta=True, debounce_by=None)]
    assert "".join(pieces) == (await agent.run(QUESTION)).output


@turn("structured output by a required tool")
async def structured_by_tool() -> None:
    agent = Agent(model, output_type=Color, model_settings=GREEDY)
    assert isinstance((await agent.run(QUESTION)).output, Color)


@turn("structured output by JSON schema")
async def structured_by_schema() -> None:
    agent = Agent(model, output_type=NativeOutput(Color), model_settings=GREEDY)
    assert isinstance((await agent.run(QUESTION)).output, Color)


@turn("structured output, streamed")
async def structured_stream() -> None:
    agent = Agent(model, output_type=Color, model_settings=GREEDY)
    async with agent.run_stream(QUESTION) as answer:
        assert isinstance(await answer.get_output(), Color)


@turn("a tool call and its result")
async def tool_turn() -> None:
    await _call_a_tool(model)


async def _call_a_tool(model: Model) -> None:
    question = ModelRequest(parts=[UserPromptPart("What is the weather in Paris?")])
    tools = ModelRequestParameters(function_tools=[WEATHER], allow_text_output=True)
    forced = GREEDY | ModelSettings(tool_choice=["get_weather"])
    answer = await model_request(model, [question], model_settings=forced, model_request_parameters=tools)
    calls = [part for part in answer.parts if isinstance(part, ToolCallPart)]  # it may ask for several cities
    assert calls
    assert all(call.args_as_dict()["city"] in ("Paris", "London") for call in calls)
    result = ModelRequest(
        parts=[ToolReturnPart("get_weather", "22 degrees", tool_call_id=call.tool_call_id) for call in calls]
    )
    free = GREEDY | ModelSettings(tool_choice="none")
    after = await model_request(
        model, [question, answer, result], model_settings=free, model_request_parameters=tools
    )
    assert after.text


@turn("responses: two turns, resent and by previous_response_id")
async def response_turns() -> None:
    agent = Agent(responses, model_settings=BRIEF)
    first = await agent.run(QUESTION)
    history = first.all_messages()
    resent = await agent.run("And of grass?", message_history=history)
    chained = BRIEF | OpenAIResponsesModelSettings(openai_previous_response_id="auto")
    continued = await agent.run("And of grass?", message_history=history, model_settings=chained)
    assert continued.output == resent.output
    assert continued.usage.input_tokens == resent.usage.input_tokens > first.usage.input_tokens


@turn("responses: run, streamed")
async def response_stream() -> None:
    agent = Agent(responses, model_settings=BRIEF)
    async with agent.run_stream(QUESTION) as answer:
        pieces = [piece async for piece in answer.stream_text(delta=True, debounce_by=None)]
    assert "".join(pieces) == (await agent.run(QUESTION)).output


@turn("responses: structured output by a required tool and by JSON schema")
async def response_structured() -> None:
    for kind in (Color, NativeOutput(Color)):
        agent = Agent(responses, output_type=kind, model_settings=GREEDY)
        assert isinstance((await agent.run(QUESTION)).output, Color)


@turn("responses: a tool call and its result")
async def response_tools() -> None:
    await _call_a_tool(responses)


if __name__ == "__main__":
    run()
