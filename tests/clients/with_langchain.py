"""LangChain: chat, responses, completions and embeddings."""

from __future__ import annotations

from typing import Annotated, Literal

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field
from turns import BASE_URL, KEY, MODEL, QUESTION, run, turn

SERVER = {"base_url": BASE_URL, "api_key": KEY, "max_retries": 0, "timeout": 120}
chat = ChatOpenAI(model=MODEL, temperature=0, max_tokens=100, **SERVER)
responses = ChatOpenAI(model=MODEL, temperature=0, max_tokens=24, use_responses_api=True, **SERVER)
chained = responses.model_copy(update={"use_previous_response_id": True})


class Color(BaseModel):
    """A color."""

    name: Literal["red", "green", "blue"]
    brightness: Annotated[int, Field(ge=0, le=100)]


@tool
def get_weather(city: Literal["Paris", "London"]) -> str:
    """The weather in a city."""
    return f"22 degrees in {city}"


@turn("invoke")
def invoke() -> None:
    answer = chat.invoke(QUESTION)
    assert answer.content
    assert answer.response_metadata["finish_reason"] in ("stop", "length")
    assert answer.usage_metadata["total_tokens"] > 0


@turn("stream")
def stream() -> None:
    chunks = list(chat.stream(QUESTION, stream_usage=True))
    assert "".join(chunk.content for chunk in chunks) == chat.invoke(QUESTION).content
    assert any(chunk.usage_metadata for chunk in chunks)


@turn("async stream")
async def async_stream() -> None:
    pieces = [chunk.content async for chunk in chat.astream(QUESTION)]
    assert "".join(pieces) == (await chat.ainvoke(QUESTION)).content


@turn("structured output by JSON schema and by a function")
def structured() -> None:
    for method in ("json_schema", "function_calling"):
        assert isinstance(chat.with_structured_output(Color, method=method).invoke(QUESTION), Color), method


@turn("a tool call and its result")
def tool_turn() -> None:
    with_tools = chat.bind_tools([get_weather], tool_choice="get_weather")
    question = HumanMessage("What is the weather in Paris?")
    answer = with_tools.invoke([question])
    (call,) = answer.tool_calls
    result = get_weather.invoke(call)
    assert isinstance(result, ToolMessage)
    after = chat.bind_tools([get_weather], tool_choice="none").invoke([question, answer, result])
    assert after.content
    assert not after.tool_calls


@turn("a required tool call, streamed")
def tool_stream() -> None:
    with_tools = chat.bind_tools([get_weather], tool_choice="required", parallel_tool_calls=False)
    whole = None
    for chunk in with_tools.stream("What is the weather in Paris?"):
        whole = chunk if whole is None else whole + chunk
    (call,) = whole.tool_calls
    assert call["name"] == "get_weather"
    assert call["args"]["city"] in ("Paris", "London")


@turn("responses: two turns, resent and by previous_response_id")
def response_turns() -> None:
    question, more = HumanMessage(QUESTION), HumanMessage("And of grass?")
    first = responses.invoke([question])
    assert first.text
    assert first.response_metadata["id"].startswith("resp_")
    resent = responses.invoke([question, first, more])
    assert chained.invoke([question, first, more]).text == resent.text
    assert resent.usage_metadata["input_tokens"] > first.usage_metadata["input_tokens"]


@turn("responses: stream")
def response_stream() -> None:
    text = "".join(chunk.text for chunk in responses.stream(QUESTION))
    assert text == responses.invoke(QUESTION).text


@turn("responses: structured output")
def response_structured() -> None:
    longer = responses.model_copy(update={"max_tokens": 100})
    assert isinstance(longer.with_structured_output(Color).invoke(QUESTION), Color)


@turn("responses: a tool call and its result, resent and by previous_response_id")
def response_tools() -> None:
    question = HumanMessage("What is the weather in Paris?")
    longer = responses.model_copy(update={"max_tokens": 100})
    answer = longer.bind_tools([get_weather], tool_choice="get_weather").invoke([question])
    (call,) = answer.tool_calls
    history = [question, answer, get_weather.invoke(call)]
    for model in (responses, chained):
        after = model.bind_tools([get_weather], tool_choice="none").invoke(history)
        assert after.text
        assert not after.tool_calls


@turn("completions")
def completions() -> None:
    model = OpenAI(model=MODEL, temperature=0, max_tokens=16, **SERVER)
    text = model.invoke("The capital of France is")
    assert text
    assert "".join(model.stream("The capital of France is")) == text


@turn("embeddings")
def embeddings() -> None:
    model = OpenAIEmbeddings(model=MODEL, check_embedding_ctx_length=False, **SERVER)
    one, other = model.embed_documents(["The sky is blue.", "Grass is green."])
    assert len(one) == len(other) == len(model.embed_query("What color is the sky?"))


if __name__ == "__main__":
    run()
