"""openai-agents over responses, which is its default, with its conversations session."""

from __future__ import annotations

from typing import Literal

from agents import (
    Agent,
    ModelSettings,
    OpenAIConversationsSession,
    OpenAIProvider,
    RunConfig,
    Runner,
    function_tool,
    set_default_openai_client,
)
from openai import AsyncOpenAI
from pydantic import BaseModel
from turns import BASE_URL, KEY, MODEL, QUESTION, run, turn

client = AsyncOpenAI(
    base_url=BASE_URL, api_key=KEY, max_retries=0, timeout=120, _strict_response_validation=True
)
set_default_openai_client(client, use_for_tracing=False)
SHORT = ModelSettings(temperature=0, max_tokens=24)
FORCED = ModelSettings(temperature=0, max_tokens=60, tool_choice="get_weather")  # in its first turn


class Color(BaseModel):
    name: Literal["red", "green", "blue"]
    is_warm: bool


@function_tool
def get_weather(city: Literal["Paris", "London"]) -> str:
    """The weather in a city."""
    return f"22 degrees in {city}"


talker = Agent(name="talker", instructions="Be brief.", model=MODEL, model_settings=SHORT)
forecaster = Agent(name="forecaster", model=MODEL, model_settings=FORCED, tools=[get_weather])


@turn("two turns by previous_response_id")
async def two_turns() -> None:
    first = await Runner.run(talker, QUESTION)
    assert first.final_output
    second = await Runner.run(talker, "And of grass?", previous_response_id=first.last_response_id)
    assert second.final_output
    inputs = [item async for item in client.responses.input_items.list(second.last_response_id)]
    assert len(inputs) == 3


@turn("a tool turn")
async def tool_turn() -> None:
    answer = await Runner.run(forecaster, "What is the weather in Paris?")
    kinds = [item.type for item in answer.new_items]
    assert kinds[:2] == ["tool_call_item", "tool_call_output_item"]
    assert len(answer.raw_responses) >= 2
    assert answer.final_output


@turn("a tool turn, streamed")
async def tool_stream() -> None:
    answer = Runner.run_streamed(forecaster, "What is the weather in Paris?")
    kinds = [event.name async for event in answer.stream_events() if event.type == "run_item_stream_event"]
    assert kinds[:2] == ["tool_called", "tool_output"]
    assert kinds[-1] == "message_output_created"
    assert answer.final_output


@turn("structured output")
async def structured() -> None:
    settings = ModelSettings(temperature=0, max_tokens=100)
    agent = Agent(name="painter", model=MODEL, model_settings=settings, output_type=Color)
    assert isinstance((await Runner.run(agent, QUESTION)).final_output, Color)


@turn("the conversations session: two turns and a tool turn")
async def session() -> None:
    session = OpenAIConversationsSession(openai_client=client)
    await Runner.run(talker, QUESTION, session=session)
    assert (await Runner.run(talker, "And of grass?", session=session)).final_output
    assert (await Runner.run(forecaster, "And the weather?", session=session)).final_output
    items = await session.get_items()
    assert [item["role"] for item in items[:5]] == ["user", "assistant", "user", "assistant", "user"]
    assert [item["type"] for item in items[5:]] == ["function_call", "function_call_output", "message"]
    again = OpenAIConversationsSession(openai_client=client, conversation_id=session.session_id)
    assert await again.get_items() == items
    assert await again.pop_item() == items[-1]
    assert await again.get_items(limit=2) == items[-3:-1]
    await session.clear_session()


@turn("two turns in a conversation of the server")
async def conversation() -> None:
    id = (await client.conversations.create()).id
    await Runner.run(talker, QUESTION, conversation_id=id)
    assert (await Runner.run(forecaster, "And the weather?", conversation_id=id)).final_output
    items = [item.type async for item in client.conversations.items.list(id, order="asc")]
    assert items == ["message", "message", "message", "function_call", "function_call_output", "message"]


@turn("a tool turn over a WebSocket")
async def socket() -> None:
    provider = OpenAIProvider(openai_client=client, use_responses_websocket=True)
    config = RunConfig(model_provider=provider)
    answer = await Runner.run(forecaster, "What is the weather in Paris?", run_config=config)
    assert answer.new_items[0].type == "tool_call_item"
    assert answer.final_output
    await provider.aclose()


if __name__ == "__main__":
    run()
