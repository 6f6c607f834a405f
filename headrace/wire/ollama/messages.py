"""The messages of Ollama's dialect: arguments of calls are objects, images are base64 beside the text, and a
call's result names its tool at most.
"""

from __future__ import annotations

from collections import deque
from typing import Annotated, Literal

from pydantic import Field

from headrace import json_pieces
from headrace.errors import BadRequest
from headrace.offload import check_wanted
from headrace.types import Media, Message, ToolCall
from headrace.wire.generation import JsonObject
from headrace.wire.limits import MAX_CALLS, MAX_PARTS, at_most
from headrace.wire.media import check_base64
from headrace.wire.parameters import RequestBody

# how the base64 of an image begins → its media type
BEGINNINGS = {"/9j/": "image/jpeg", "iVBORw0KGgo": "image/png", "R0lGOD": "image/gif", "UklGR": "image/webp"}
Images = Annotated[list[str], at_most(MAX_PARTS)]


class FunctionOfHistory(RequestBody):
    name: str
    arguments: JsonObject | str | None = Field(None, description="An object, or JSON text.")


class CallOfHistory(RequestBody):
    id: str | None = None
    function: FunctionOfHistory


class OllamaMessage(RequestBody):
    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: Images | None = Field(None, description="In base64.")
    tool_calls: Annotated[list[CallOfHistory], at_most(MAX_CALLS)] | None = None
    tool_name: str | None = Field(None, description="Of a result: the tool that gave it.")
    tool_call_id: str | None = None


class History:
    """Converts messages in order. A result without an id belongs to the first unanswered call of its name,
    else to the first unanswered call.
    """

    def __init__(self) -> None:
        self._unanswered: dict[str, ToolCall] = {}  # by id, in order
        self._named: dict[str, deque[str]] = {}  # name → ids, of which some may be answered

    def message(self, index: int, body: OllamaMessage) -> Message:
        """Raises BadRequest."""
        if index:
            check_wanted()
        calls = tuple(_call(f"{index}_{at}", call) for at, call in enumerate(body.tool_calls or ()))
        if calls:
            self._unanswered, self._named = {call.id: call for call in calls}, {}
            for call in calls:
                self._named.setdefault(call.name, deque()).append(call.id)
        answered = self._answered(body) if body.role == "tool" else None
        seen = [image(data, f"messages.{index}.images.{at}") for at, data in enumerate(body.images or ())]
        text = body.content or ""
        return Message(
            body.role,
            text,
            name=body.tool_name,
            tool_calls=calls,
            tool_call_id=answered,
            reasoning=body.thinking or None,
            parts=(*([text] if text else []), *seen) if seen else (),
        )

    def _answered(self, body: OllamaMessage) -> str:
        """The id of the call that a result belongs to."""
        waiting = self._unanswered
        if body.tool_call_id is not None:
            waiting.pop(body.tool_call_id, None)
            return body.tool_call_id
        named = self._named.get(body.tool_name or "", deque())
        while named and named[0] not in waiting:
            named.popleft()
        found = named[0] if named else next(iter(waiting), None)
        if found is None:
            return "call_unknown"
        del waiting[found]
        return found


def image(data: str, param: str) -> Media:
    """An image in base64. Raises BadRequest for anything else."""
    media_type = next((kind for begin, kind in BEGINNINGS.items() if data.startswith(begin)), None)
    if media_type is None:
        raise BadRequest.at(param, "an image in base64 is needed: JPEG, PNG, GIF or WebP")
    return Media("image", data=check_base64(data, param), media_type=media_type)


def _call(number: str, body: CallOfHistory) -> ToolCall:
    arguments = body.function.arguments
    text = arguments if isinstance(arguments, str) else json_pieces.dumps(arguments or {})
    return ToolCall(body.id or f"call_{number}", body.function.name, text or "{}")
