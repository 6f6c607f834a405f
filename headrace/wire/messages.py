"""The JSON of a conversation: messages, tools, and variables of the model's chat template. Also the order of
reasoning, text and tool calls in an assistant's message.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from headrace.errors import BadRequest, UnsupportedParameter
from headrace.offload import check_wanted
from headrace.types import Conversation, Media, Message, Role, Thought, ToolCall, ToolChoice
from headrace.wire import media
from headrace.wire.generation import Variables
from headrace.wire.limits import MAX_CALLS, MAX_MESSAGES, MAX_PARTS, at_most
from headrace.wire.parameters import ByType, RequestBody, advice_in
from headrace.wire.tools import ToolsBody, to_tools

Piece = str | Thought | ToolCall


class TextPart(RequestBody):
    type: Literal["text"]
    text: str


class RefusalPart(RequestBody):
    """An assistant's refusal, which the model reads as text."""

    type: Literal["refusal"]
    refusal: str


class ImageUrl(RequestBody):
    url: str | None = Field(None, description="A data URL, or an address from which a provider can fetch it.")
    detail: str | None = Field(None, description="The resolution at which a provider processes the image.")


class ImagePart(RequestBody):
    type: Literal["image_url"]
    image_url: ImageUrl


class FileOfPart(RequestBody):
    file_data: str | None = Field(None, description="A data URL.")
    filename: str | None = None
    file_id: str | None = Field(None, description="Refused: the server stores no files.")


class FilePart(RequestBody):
    type: Literal["file"]
    file: FileOfPart


Part = Annotated[
    TextPart | RefusalPart | ImagePart | FilePart,
    ByType(
        "part_type", "only parts of type text, image_url, file (and refusal, of an assistant) are supported"
    ),
]
Parts = Annotated[list[Part], at_most(MAX_PARTS, least=1)]


class ThinkingBlock(RequestBody):
    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class RedactedThinkingBlock(RequestBody):
    """Encrypted thinking, which only its provider can read."""

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


def _thinking(part: Any) -> str | None:
    """The text of a thinking part; None: it is a part of another kind."""
    if not isinstance(part, dict) or part.get("type") != "thinking":
        return None
    thinking = part.get("thinking")
    if isinstance(thinking, str):
        return thinking
    if not isinstance(thinking, list):
        return None
    texts = [piece.get("text") for piece in thinking if isinstance(piece, dict)]
    strings = [text for text in texts if isinstance(text, str)]
    return "".join(strings) if len(strings) == len(thinking) else None


NEED_CONTENT = ("system", "developer", "user", "tool")


class ChatMessage(RequestBody):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Parts | None = None
    name: str | None = None
    tool_calls: Annotated[list[ToolCallBody], at_most(MAX_CALLS)] | None = None
    tool_call_id: str | None = None
    function_call: FunctionOfCall | None = Field(None, description="The older form of tool_calls.")
    reasoning_content: str | None = Field(None, description="An assistant's reasoning before its answer.")
    reasoning: str | None = Field(None, description="Another name of reasoning_content.")
    thinking_blocks: Annotated[list[Thinking], at_most(MAX_PARTS)] | None = Field(
        None, description="Extension. The reasoning as its provider signed it."
    )

    @model_validator(mode="before")
    @classmethod
    def _without_thinking_parts(cls, message: Any) -> Any:
        """Move an assistant's thinking parts, as Mistral's models write them and clients send them back, to
        `reasoning_content`. Parts of another shape stay, and are refused there.
        """
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(content, list) or message.get("role") != "assistant":
            return message
        thoughts = [thinking for part in content if (thinking := _thinking(part)) is not None]
        if not thoughts:
            return message
        rest = [part for part in content if _thinking(part) is None]
        reasoning = message.get("reasoning_content") or message.get("reasoning") or "".join(thoughts)
        return {**message, "content": rest or None, "reasoning_content": reasoning}


class ConversationBody(ToolsBody):
    """The members of a body that the prompt consists of."""

    messages: Annotated[list[ChatMessage], at_most(MAX_MESSAGES, least=1)]
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    enable_thinking: bool | None = None
    chat_template_kwargs: Variables | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = False


def to_conversation(body: ConversationBody) -> Conversation:
    """The conversation of a request. Raises BadRequest."""
    goes_on = bool(body.continue_final_message)
    if goes_on and body.add_generation_prompt:
        raise BadRequest(
            "continue_final_message and add_generation_prompt exclude each other",
            param="continue_final_message",
        )
    has_tools = (body.tools or body.functions or body.tool_choice or body.function_call) is not None
    has_variables = body.enable_thinking is not None or body.chat_template_kwargs is not None
    tools, choice = to_tools(body) if has_tools else ((), ToolChoice())
    messages: list[Message] = []
    call_id: str | None = None  # of the last function_call, which has no id of its own
    for index, message in enumerate(body.messages):
        if index:
            check_wanted()
        if message.function_call is not None:
            call_id = f"call_{index}"
        messages.append(_message(index, message, call_id))
    return Conversation(
        tuple(messages), tools, choice, body.parallel_tool_calls is not False and not body.functions,
        body.reasoning_effort, not goes_on and body.add_generation_prompt is not False, goes_on,
        _template_kwargs(body) if has_variables else {}, body.verbosity,
        wishes=wishes(messages, verbosity=body.verbosity, **advice_in(body)),
    )  # fmt: skip


def wishes(messages: Iterable[Message], **more: object) -> frozenset[str]:
    """The names of members that may be left out if a target refuses them: those of `more` that have a value,
    and the reasoning of earlier answers.
    """
    thought = {"messages.reasoning_content"} if any(message.reasoning for message in messages) else set()
    return frozenset(thought | {name for name, value in more.items() if value is not None})


# variables that are members of the body
OWN_VARIABLES = ("messages", "tools", "add_generation_prompt")


def _template_kwargs(body: ConversationBody) -> dict[str, Any]:
    """The variables of the chat template. Raises BadRequest."""
    thinking = {} if body.enable_thinking is None else {"enable_thinking": body.enable_thinking}
    variables = {**thinking, **(body.chat_template_kwargs or {})}
    for name in OWN_VARIABLES:
        if name in variables:
            raise BadRequest.at(f"chat_template_kwargs.{name}", f"give {name} as a member of the body")
    return variables


def _message(index: int, body: ChatMessage, call_id: str | None) -> Message:
    """`call_id`: the id of the last function_call. Raises BadRequest."""
    if body.content is None and body.role in NEED_CONTENT:
        raise BadRequest.at(f"messages.{index}.content", f"a message of role {body.role!r} needs content")
    if (body.model_extra or {}).get("audio") is not None:  # without it the conversation would be another
        raise UnsupportedParameter(
            "audio in a message is not supported by this server", param=f"messages.{index}.audio"
        )
    calls = [ToolCall(call.id, call.function.name, call.function.arguments) for call in body.tool_calls or ()]
    if body.function_call is not None:
        calls.append(ToolCall(call_id or "", body.function_call.name, body.function_call.arguments))
    role: Role = "tool" if body.role == "function" else body.role
    text, mixed = body.content or "", tuple[str | Media, ...]()
    if not isinstance(text, str):
        path = f"messages.{index}.content"
        parts = [_part(f"{path}.{number}", part) for number, part in enumerate(text)]
        text, mixed = media.joined(parts), media.mixed(parts)
    has_reasoning = any(
        member is not None for member in (body.reasoning_content, body.reasoning, body.thinking_blocks)
    )
    return Message(
        role, text, body.name, tuple(calls), call_id if body.role == "function" else body.tool_call_id,
        reasoning(body) if has_reasoning else None, mixed,
        tuple(thought(block) for block in body.thinking_blocks or ()),
    )  # fmt: skip


def reasoning(body: ChatMessage) -> str | None:
    """An assistant's reasoning, from whichever member has it."""
    text = body.reasoning if body.reasoning_content is None else body.reasoning_content
    if text or not body.thinking_blocks:
        return text
    shown = (block.thinking for block in body.thinking_blocks if isinstance(block, ThinkingBlock))
    return "".join(shown) or None


def thought(block: ThinkingBlock | RedactedThinkingBlock) -> Thought:
    if isinstance(block, RedactedThinkingBlock):
        return Thought(redacted=block.data)
    return Thought(block.thinking, block.signature or None)


def _part(param: str, part: Part) -> str | Media:
    """A part as text or media. Raises BadRequest."""
    if isinstance(part, TextPart):
        return part.text
    if isinstance(part, RefusalPart):
        return part.refusal
    if isinstance(part, ImagePart):
        return replace(media.at_url(part.image_url.url, param), detail=part.image_url.detail)
    if part.file.file_id is not None:
        raise UnsupportedParameter.at(param, "no files are kept here; send file_data")
    return media.file(part.file.file_data, part.file.filename, param)


def in_order(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """The value of Message.in_order: the pieces, or () if they have the usual order, thoughts first."""
    spoken = [piece for piece in pieces if piece != ""]
    first = next((at for at, piece in enumerate(spoken) if not isinstance(piece, Thought)), len(spoken))
    return tuple(spoken) if any(isinstance(piece, Thought) for piece in spoken[first:]) else ()
