"""LlamaIndex: OpenAILike for chat and completions, and its embeddings.

It reads the annotations of functions as they are, so they are no strings here.
"""

from typing import Annotated, Literal

from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel, Field
from turns import BASE_URL, KEY, MODEL, QUESTION, run, turn

SERVER = {"api_base": BASE_URL, "api_key": KEY, "max_retries": 0, "timeout": 120}
MODEL_OPTIONS = {"model": MODEL, "temperature": 0, "max_tokens": 100, "context_window": 8192, **SERVER}
chat = OpenAILike(is_chat_model=True, is_function_calling_model=True, **MODEL_OPTIONS)
ASKED = ChatMessage(role="user", content=QUESTION)


class Color(BaseModel):
    """A color."""

    name: Literal["red", "green", "blue"]
    brightness: Annotated[int, Field(ge=0, le=100)]


def get_weather(city: Literal["Paris", "London"]) -> str:
    """The weather in a city."""
    return f"22 degrees in {city}"


@turn("chat")
def plain() -> None:
    answer = chat.chat([ASKED])
    assert answer.message.role == "assistant"
    assert answer.message.content


@turn("chat, streamed")
def stream() -> None:
    pieces = [chunk.delta or "" for chunk in chat.stream_chat([ASKED])]
    assert "".join(pieces) == chat.chat([ASKED]).message.content


@turn("completions")
def completions() -> None:
    model = OpenAILike(is_chat_model=False, **MODEL_OPTIONS)
    text = model.complete("The capital of France is").text
    assert text
    assert "".join(chunk.delta for chunk in model.stream_complete("The capital of France is")) == text


@turn("structured output by a function")
def structured_by_function() -> None:
    found = chat.structured_predict(Color, PromptTemplate(QUESTION), llm_kwargs={"tool_choice": "required"})
    assert isinstance(found, Color)


@turn("structured output by JSON schema")
def structured_by_schema() -> None:
    model = OpenAILike(is_chat_model=True, should_use_structured_outputs=True, **MODEL_OPTIONS)
    assert isinstance(model.structured_predict(Color, PromptTemplate(QUESTION)), Color)


@turn("a tool call and its result")
def tool_turn() -> None:
    weather = FunctionTool.from_defaults(get_weather)
    question = ChatMessage(role="user", content="What is the weather in Paris?")
    answer = chat.chat_with_tools([weather], chat_history=[question], tool_required=True)
    (call,) = chat.get_tool_calls_from_response(answer)
    assert call.tool_name == "get_weather"
    result = weather(**call.tool_kwargs)
    reply = ChatMessage(role="tool", content=result.content, additional_kwargs={"tool_call_id": call.tool_id})
    assert chat.chat([question, answer.message, reply]).message.content


@turn("embeddings")
def embeddings() -> None:
    model = OpenAILikeEmbedding(model_name=MODEL, **SERVER)
    one, other = model.get_text_embedding_batch(["The sky is blue.", "Grass is green."])
    assert len(one) == len(other) == len(model.get_query_embedding("What color is the sky?"))


if __name__ == "__main__":
    run()
