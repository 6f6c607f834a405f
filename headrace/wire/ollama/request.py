"""The bodies of POST /api/chat, /api/generate, /api/embed and /api/embeddings, and their conversion to
neutral requests. In this dialect arguments of calls are objects, images are base64 beside the text, and a
call's result names its tool at most.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from headrace.errors import BadRequest
from headrace.finite import dumps_large
from headrace.offload import check_wanted
from headrace.types import (
    Conversation,
    EmbedRequest,
    Format,
    GenerateRequest,
    Media,
    Message,
    Sampling,
    Texts,
    Tool,
    ToolCall,
    ToolChoice,
)
from headrace.wire.forms import schema_form
from headrace.wire.generation import INT64, LEAST_PENALTY, MOST_PENALTY, JsonObject, Stop
from headrace.wire.limits import (
    MAX_CALLS,
    MAX_INPUTS,
    MAX_MESSAGES,
    MAX_PARTS,
    MAX_STOP_SEQUENCES,
    MAX_TOOLS,
    at_most,
    shown,
)
from headrace.wire.media import check_base64
from headrace.wire.messages import wishes
from headrace.wire.parameters import RequestBody, carried
from headrace.wire.tools import ToolBody, tools_of

SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
PIECE = re.compile(r"(\d{1,12}(?:\.\d{0,9})?)(h|ms|m|s|us|µs|ns)", re.ASCII)
WHOLE = re.compile(r"[+-]?(?:\d{1,12}+(?:\.\d{0,9}+)?+(?:h|ms|m|s|us|µs|ns)?+)++", re.ASCII)
Think = bool | Literal["low", "medium", "high", "max"]

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
        id = named[0] if named else next(iter(waiting), None)
        if id is None:
            return "call_unknown"
        del waiting[id]
        return id


def image(data: str, param: str) -> Media:
    """An image in base64. Raises BadRequest for anything else."""
    media_type = next((kind for begin, kind in BEGINNINGS.items() if data.startswith(begin)), None)
    if media_type is None:
        raise BadRequest.at(param, "an image in base64 is needed: JPEG, PNG, GIF or WebP")
    return Media("image", data=check_base64(data, param), media_type=media_type)


def _call(number: str, body: CallOfHistory) -> ToolCall:
    arguments = body.function.arguments
    text = arguments if isinstance(arguments, str) else dumps_large(arguments or {})
    return ToolCall(body.id or f"call_{number}", body.function.name, text or "{}")


def _seconds(value: float | str | None) -> float | None:
    return None if value is None else seconds(value, "keep_alive")


# Read as seconds; infinity: for ever. None: the server's setting.
KeepAlive = Annotated[
    float | str | None,
    AfterValidator(_seconds),
    Field(description="Seconds, or a text such as 5m; negative: for ever; 0: not at all."),
]


class ModelBody(RequestBody):
    """A body that names a model, and how long it is to stay in memory."""

    model: str
    keep_alive: KeepAlive = None

    @property
    def keep_alive_s(self) -> float | None:
        assert not isinstance(self.keep_alive, str), "the validator has read it"
        return self.keep_alive


class AnswerBody(ModelBody):
    """The members of both endpoints that generate text."""

    stream: bool | None = Field(True, description="Default true.")
    options: Options | None = None
    format: Literal["", "json"] | JsonObject | None = Field(None, description="`json`, or a JSON schema.")
    think: Think | None = None
    truncate: bool | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)

    @property
    def is_streamed(self) -> bool:
        return self.stream is not False


class OllamaChatBody(AnswerBody):
    """The body of POST /api/chat. Without messages it only loads the model."""

    messages: Annotated[list[OllamaMessage], at_most(MAX_MESSAGES)] | None = None
    tools: Annotated[list[ToolBody], at_most(MAX_TOOLS)] | None = None


class OllamaGenerateBody(AnswerBody):
    """The body of POST /api/generate. Without a prompt it only loads the model."""

    prompt: str | None = ""
    suffix: str | None = None
    system: str | None = None
    images: Images | None = Field(None, description="In base64.")
    raw: bool | None = False


# member of chat completions → Ollama's member
NAMES = {
    "reasoning_effort": "think",
    "messages.reasoning_content": "messages.thinking",
    "max_tokens": "options.num_predict",
    "truncate_prompt_tokens": "truncate",
    "response_format": "format",
    "repetition_penalty": "options.repeat_penalty",
}


def endpoint_name(name: str) -> str:
    """This dialect's name for a member of chat completions."""
    return NAMES.get(name, name)


def chat_request(body: OllamaChatBody) -> GenerateRequest:
    """The neutral request of a body with messages. Raises BadRequest."""
    history = History()
    messages = tuple(history.message(index, one) for index, one in enumerate(body.messages or ()))
    return _request(body, _conversation(body, messages, tools_of(tool.function for tool in body.tools or ())))


def generate_request(body: OllamaGenerateBody) -> GenerateRequest:
    """The neutral request of a body with a prompt. Raises BadRequest."""
    prompt = body.prompt or ""
    if body.raw or body.suffix:
        return _request(body, Texts((prompt,), body.suffix or None, parse_special=bool(body.raw)))
    seen = tuple(image(data, f"images.{at}") for at, data in enumerate(body.images or ()))
    system = (Message("system", body.system),) if body.system else ()
    user = Message("user", prompt, parts=(prompt, *seen) if seen else ())
    return _request(body, _conversation(body, (*system, user)))


def goes_on(messages: Sequence[Message] | Sequence[OllamaMessage]) -> bool:
    """Whether the last message is the assistant's and has no calls, so that it is continued."""
    return bool(messages) and messages[-1].role == "assistant" and not messages[-1].tool_calls


def _conversation(
    body: AnswerBody, messages: tuple[Message, ...], tools: tuple[Tool, ...] = ()
) -> Conversation:
    is_continued = goes_on(messages)
    return Conversation(
        messages,
        tools,
        ToolChoice(),
        reasoning_effort=effort(body.think),
        add_generation_prompt=not is_continued,
        continue_final_message=is_continued,
        wishes=wishes(messages) | {"reasoning_effort"},
    )


def effort(think: Think | None) -> str | None:
    """The reasoning effort: a level as it is, true as a medium one."""
    if isinstance(think, bool):
        return "medium" if think else "none"
    return think


def _request(body: AnswerBody, prompt: Conversation | Texts) -> GenerateRequest:
    if body.top_logprobs and not body.logprobs:
        raise BadRequest("top_logprobs needs logprobs: true", param="top_logprobs")
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    return GenerateRequest(
        body.model,
        prompt,
        sampling(body.options, logprobs=logprobs, truncates=bool(body.truncate)),
        format=output_format(body.format),
        foreign=carried(body.options or NO_OPTIONS),
    )


def output_format(value: dict[str, Any] | str | None) -> Format | None:
    if not value and value != {}:
        return None
    return Format("json_object", param="format") if value == "json" else schema_form(value, "format")


def seconds(value: float | str, param: str) -> float:
    """A duration in seconds; infinity for a negative one, which means "for ever". Raises BadRequest."""
    if isinstance(value, str):
        value = _parsed(value, param)
    return math.inf if value < 0 else value


def _parsed(text: str, param: str) -> float:
    if len(text) > 60 or not WHOLE.fullmatch(text):
        raise BadRequest.at(param, f"{shown(text)} is no duration; write seconds, or a text such as 5m")
    sign, digits = (-1.0, text[1:]) if text.startswith("-") else (1.0, text.removeprefix("+"))
    pieces = PIECE.findall(digits)
    if not pieces:
        return sign * float(digits)
    if "".join(number + unit for number, unit in pieces) != digits:
        raise BadRequest.at(param, f"{shown(text)} is no duration: a number lacks its unit")
    return sign * sum(float(number) * SECONDS[unit] for number, unit in pieces)


def _whole(value: Any) -> Any:
    """A whole number that is written as 8192.0, as the number fields of some programs write it."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = BeforeValidator(_whole)


class Options(RequestBody):
    """Null means that a member is not set; then the model's recommendation counts, not Ollama's default."""

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    min_p: float | None = Field(None, ge=0, le=1)
    top_k: Annotated[int | None, Whole] = Field(None, ge=-1, lt=INT64)
    seed: Annotated[int | None, Whole] = Field(None, ge=-INT64, lt=INT64, description="-1: a random one.")
    num_predict: Annotated[int | None, Whole] = Field(None, ge=-2, lt=INT64)
    repeat_penalty: float | None = Field(None, ge=LEAST_PENALTY, le=MOST_PENALTY)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    stop: Stop | Annotated[list[Stop], at_most(MAX_STOP_SEQUENCES)] | None = None


NO_OPTIONS = Options.model_validate({})


def sampling(options: Options | None, *, logprobs: int | None = None, truncates: bool = False) -> Sampling:
    """The sampling parameters. `truncates`: the beginning of a prompt that is too long may be cut off."""
    options = options or NO_OPTIONS
    stop = (options.stop,) if isinstance(options.stop, str) else tuple(options.stop or ())
    return Sampling(
        max_tokens=options.num_predict if (options.num_predict or 0) > 0 else None,
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=None if options.top_k is None else max(0, options.top_k),
        min_p=options.min_p,
        repetition_penalty=options.repeat_penalty,
        frequency_penalty=options.frequency_penalty or 0.0,
        presence_penalty=options.presence_penalty or 0.0,
        seed=None if options.seed == -1 else options.seed,
        stop=stop,
        logprobs=logprobs,
        truncate_prompt_tokens=-1 if truncates else None,
    )


class EmbedBody(ModelBody):
    """The body of POST /api/embed. Without a text it only loads the model."""

    input: str | Annotated[list[str], at_most(MAX_INPUTS)]
    truncate: bool | None = None
    dimensions: int | None = Field(None, ge=1, lt=INT64)

    @property
    def texts(self) -> tuple[str, ...]:
        texts = (self.input,) if isinstance(self.input, str) else tuple(self.input)
        return texts if any(texts) else ()


class OllamaEmbeddingsBody(ModelBody):
    """The body of POST /api/embeddings, for one text."""

    prompt: str | None = ""


def embed_request(body: EmbedBody) -> EmbedRequest:
    return EmbedRequest(
        body.model,
        tuple(body.texts),
        body.dimensions,
        normalize=True,
        truncate_prompt_tokens=-1 if body.truncate else None,
    )


def embeddings_request(body: OllamaEmbeddingsBody) -> EmbedRequest:
    return EmbedRequest(body.model, (body.prompt or "",), normalize=True)
