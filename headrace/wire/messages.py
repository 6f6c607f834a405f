"""A conversation as JSON: messages, tools, and how the model's template is to write them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator

from headrace.errors import BadRequest, UnsupportedParameter
from headrace.types import Conversation, Media, Message, Role, Thought, ToolCall
from headrace.wire import media
from headrace.wire.generation import Variables
from headrace.wire.limits import MAX_CALLS, MAX_MESSAGES, MAX_PARTS, at_most
from headrace.wire.thinking_parts import thoughts_apart
from headrace.wire.tools import ToolsBody, is_legacy, to_tools
from headrace.wire.validation import RequestBody


class TextPart(RequestBody):
    type: Literal["text"]
    text: str


class RefusalPart(RequestBody):
    """What an assistant said instead of an answer: text, to the model."""

    type: Literal["refusal"]
    refusal: str


class ImageUrl(RequestBody):
    url: str | None = Field(None, description="A data URL, or where a provider can fetch it.")
    detail: str | None = Field(None, description="How closely a provider is to look at it.")


class ImagePart(RequestBody):
    type: Literal["image_url"]
    image_url: ImageUrl


class FileOfPart(RequestBody):
    file_data: str | None = Field(None, description="A data URL.")
    filename: str | None = None
    file_id: str | None = Field(None, description="Refused: no files are kept.")


class FilePart(RequestBody):
    type: Literal["file"]
    file: FileOfPart


PART_TAGS = {"text": "TextPart", "refusal": "RefusalPart", "image_url": "ImagePart", "file": "FilePart"}


def _tag(part: object) -> str | None:
    type = part.get("type") if isinstance(part, dict) else None
    return PART_TAGS.get(type) if isinstance(type, str) else None


Part = Annotated[
    Annotated[TextPart, Tag("TextPart")]
    | Annotated[RefusalPart, Tag("RefusalPart")]
    | Annotated[ImagePart, Tag("ImagePart")]
    | Annotated[FilePart, Tag("FilePart")],
    Discriminator(
        _tag,
        custom_error_type="part_type",
        custom_error_message="only parts of type text, image_url, file (and refusal, of an assistant) "
        "are supported",
    ),
]
Parts = Annotated[list[Part], at_most(MAX_PARTS, least=1)]


class ThinkingBlock(RequestBody):
    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class RedactedThinkingBlock(RequestBody):
    """Thinking that only its provider can read."""

    type: Literal["redacted_thinking"]
    data: str


Thinking = Annotated[ThinkingBlock | RedactedThinkingBlock, Field(discriminator="type")]


class FunctionOfCall(RequestBody):
    name: str
    arguments: str


class ToolCallBody(RequestBody):
    id: str
    type: Literal["function"] = "function"
    function: FunctionOfCall


NEED_CONTENT = ("system", "developer", "user", "tool")


class ChatMessage(RequestBody):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Annotated[str | Parts | None, Field(validate_default=True)] = None
    name: str | None = None
    tool_calls: Annotated[list[ToolCallBody], at_most(MAX_CALLS)] | None = None
    tool_call_id: str | None = None
    function_call: FunctionOfCall | None = Field(None, description="The older form of tool_calls.")
    reasoning_content: str | None = Field(None, description="What an assistant thought before it spoke.")
    reasoning: str | None = Field(None, description="Another name of reasoning_content.")
    thinking_blocks: Annotated[list[Thinking], at_most(MAX_PARTS)] | None = Field(
        None, description="Extension. The same, as its provider signed it."
    )

    @model_validator(mode="before")
    @classmethod
    def _thoughts_apart(cls, message: Any) -> Any:
        return thoughts_apart(message)

    @field_validator("content")
    @classmethod
    def _content_where_it_is_needed(cls, content: str | Parts | None, info: ValidationInfo) -> object:
        if content is None and info.data.get("role") in NEED_CONTENT:
            raise ValueError(f"a message of role {info.data['role']!r} needs content")
        return content


class ConversationBody(ToolsBody):
    """The members of a body that make the prompt."""

    messages: Annotated[list[ChatMessage], at_most(MAX_MESSAGES, least=1)]
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    verbosity: Literal["low", "medium", "high"] | None = Field(
        None, description="How long answers are to be, where a provider knows it."
    )
    enable_thinking: bool | None = Field(None, description="Extension. See chat_template_kwargs.")
    chat_template_kwargs: Variables | None = Field(
        None, description="Extension. Variables of the model's chat template."
    )
    add_generation_prompt: bool | None = Field(
        None, description="Extension. End the prompt where the assistant begins. Default true."
    )
    continue_final_message: bool | None = Field(
        False, description="Extension. Go on with the last message instead of answering it."
    )


def to_conversation(body: ConversationBody) -> Conversation:
    """Raises BadRequest."""
    goes_on = bool(body.continue_final_message)
    if goes_on and body.add_generation_prompt:
        raise BadRequest(
            "continue_final_message and add_generation_prompt exclude each other",
            param="continue_final_message",
        )
    tools, choice = to_tools(body)
    messages = _messages(body.messages)
    return Conversation(
        messages,
        tools,
        choice,
        body.parallel_tool_calls is not False and not is_legacy(body),
        body.reasoning_effort,
        not goes_on and body.add_generation_prompt is not False,
        goes_on,
        _template_kwargs(body),
        body.verbosity,
        wishes=wishes(messages, verbosity=body.verbosity),
    )


def wishes(messages: Iterable[Message], **more: object) -> frozenset[str]:
    """The members that may be left out where a target refuses them: these, where they have a value, and what
    an assistant thought long ago.
    """
    thought = {"messages.reasoning_content"} if any(message.reasoning for message in messages) else set()
    return frozenset(thought | {name for name, value in more.items() if value is not None})


# variables of a template that have members of their own in the body
OWN_VARIABLES = ("messages", "tools", "add_generation_prompt")


def _template_kwargs(body: ConversationBody) -> dict[str, Any]:
    wished = {} if body.enable_thinking is None else {"enable_thinking": body.enable_thinking}
    given = {**wished, **(body.chat_template_kwargs or {})}
    for name in OWN_VARIABLES:
        if name in given:
            param = f"chat_template_kwargs.{name}"
            raise BadRequest(f"{param}: give {name} as a member of the body", param=param)
    return given


def _messages(bodies: list[ChatMessage]) -> tuple[Message, ...]:
    messages: list[Message] = []
    asked: str | None = None  # the id of the last function_call, which has none of its own
    for index, body in enumerate(bodies):
        if body.function_call is not None:
            asked = f"call_{index}"
        messages.append(_message(index, body, asked))
    return tuple(messages)


# members of a message that are content of other kinds: dropping them would change the conversation
CONTENT_REFUSED = ("audio",)


def _message(index: int, body: ChatMessage, asked: str | None) -> Message:
    for name in CONTENT_REFUSED:
        if (body.model_extra or {}).get(name) is not None:
            raise UnsupportedParameter(
                f"{name} in a message is not supported by this server", param=f"messages.{index}.{name}"
            )
    calls = [ToolCall(call.id, call.function.name, call.function.arguments) for call in body.tool_calls or ()]
    if body.function_call is not None:
        calls.append(ToolCall(asked or "", body.function_call.name, body.function_call.arguments))
    role: Role = "tool" if body.role == "function" else body.role
    parts = _parts(f"messages.{index}.content", body.content)
    return Message(
        role,
        "\n".join(part for part in parts if isinstance(part, str)),
        body.name,
        tuple(calls),
        asked if body.role == "function" else body.tool_call_id,
        reasoning(body),
        parts if any(isinstance(part, Media) for part in parts) else (),
        tuple(thought(block) for block in body.thinking_blocks or ()),
    )


def reasoning(body: ChatMessage) -> str | None:
    said = body.reasoning if body.reasoning_content is None else body.reasoning_content
    if said or not body.thinking_blocks:
        return said
    shown = (block.thinking for block in body.thinking_blocks if isinstance(block, ThinkingBlock))
    return "".join(shown) or None


def thought(block: ThinkingBlock | RedactedThinkingBlock) -> Thought:
    if isinstance(block, RedactedThinkingBlock):
        return Thought(redacted=block.data)
    return Thought(block.thinking, block.signature or None)


def _parts(path: str, content: str | list[Part] | None) -> tuple[str | Media, ...]:
    if content is None or isinstance(content, str):
        return (content or "",)
    return tuple(_part(f"{path}.{index}", part) for index, part in enumerate(content))


def _part(param: str, part: TextPart | RefusalPart | ImagePart | FilePart) -> str | Media:
    """Raises BadRequest."""
    if isinstance(part, TextPart):
        return part.text
    if isinstance(part, RefusalPart):
        return part.refusal
    if isinstance(part, ImagePart):
        return replace(media.at_url(part.image_url.url, param), detail=part.image_url.detail)
    if part.file.file_id is not None:
        raise UnsupportedParameter(f"{param}: no files are kept here; send file_data", param=param)
    return media.file(part.file.file_data, part.file.filename, param)
