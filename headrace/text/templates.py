"""Renders chat templates, a model's own Jinja source, in a sandbox with the functions that published
templates use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import jinja2.meta

from headrace.errors import BadRequest, ServerError
from headrace.text import adapting, reasoning, toolcalls
from headrace.text.adapting import Messages
from headrace.text.sandbox import BoundedEnvironment, RunTooLong, bounded
from headrace.types import Message, Tool, ToolCall

MISSING = "the model has no chat template, so it cannot chat; /v1/completions continues texts"
# A plain transcript. llama.cpp gets it instead of a template with which it would not start.
FALLBACK = """{% for message in messages %}{{ message.role | capitalize }}: {{ message.content }}

{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"""


_RESERVED = ("messages", "tools", "add_generation_prompt", "bos_token", "eos_token")
_END = "\ufdd1"  # a Unicode noncharacter that marks the end of the message to continue
_USER_PROBE, _SYSTEM_PROBE = "\ufdd2", "\ufdd3"  # texts of the messages that try a template out
MAX_SOURCE = 1_000_000  # characters
MAX_REASON = 500


class TemplateError(BadRequest):
    """The template cannot be parsed, or refuses the messages."""

    code = "chat_template_error"


class TemplateStopped(TemplateError):
    """The run exceeded a limit. Rewritten messages would exceed it too."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a template reads besides the messages."""

    tools: tuple[Tool, ...] = ()
    escape: Callable[[str], str] = str  # applied to every text of the caller
    variables: Mapping[str, object] = field(default_factory=dict)  # further ones, escaped
    starts_answer: bool = True  # the prompt ends where the assistant's answer starts
    continues_last: bool = False  # the prompt ends within the last message


class ChatTemplate:
    """One model's template. If there is none, or it does not parse, or exceeds the limits of a run,
    `problem` says so and every `render` raises TemplateError. `refusal`: why the model cannot chat, None: it
    can. `tool_format`: how the model writes calls, if the source does not show it.
    """

    def __init__(
        self,
        source: str | None,
        *,
        bos: str = "",
        eos: str = "",
        tool_format: toolcalls.ToolFormat | None = None,
    ) -> None:
        self.source = source or FALLBACK
        self._variables = {"bos_token": bos, "eos_token": eos}
        self.problem = None if source else MISSING
        self._reads: set[str] = set()
        self._parse()
        self._knows_developer = "developer" in self.source
        self._knows_tool_calls = "tool_calls" in self.source
        own_format = tool_format or toolcalls.own_format(self.source)
        self.tool_format = own_format or toolcalls.detect(None)
        self.knows_tools = own_format is not None and self.supports("tools")
        self._knows_results = self._knows_tool_calls or any(
            role in self.source for role in ("'tool'", '"tool"')
        )
        self.thinking = reasoning.detect(self.source)
        self._drops_system = False
        self.refusal = self._try_out()

    def _parse(self) -> None:
        try:
            if len(self.source) > MAX_SOURCE:
                raise ValueError(f"it is longer than {MAX_SOURCE} characters")
            environment = BoundedEnvironment()
            self._template = environment.from_string(self.source)
            self._reads = jinja2.meta.find_undeclared_variables(environment.parse(self.source))
        except Exception as exc:  # errors of Jinja, and of Python in the code that Jinja generates
            self.problem = f"the model's chat template does not parse: {str(exc)[:MAX_REASON]}"

    def _try_out(self) -> str | None:
        """Render the simplest conversation. Returns the error if the template refuses it, and detects
        templates that omit the system message.
        """
        probe = Message("system", _SYSTEM_PROBE), Message("user", _USER_PROBE)
        try:
            self.render(probe[1:])
            rendered = self._write(probe, Inputs())
            self._drops_system = _USER_PROBE in rendered and _SYSTEM_PROBE not in rendered
        except TemplateStopped as exc:
            self.problem = exc.message
        except TemplateError as exc:
            return exc.message
        return self.problem

    def supports(self, variable: str) -> bool:
        """Whether the template reads this variable, such as `enable_thinking`."""
        return variable in self._reads

    def render(
        self,
        messages: tuple[Message, ...],
        *,
        escape: Callable[[str], str] = str,
        tools: tuple[Tool, ...] = (),
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, object] | None = None,
    ) -> str:
        """The prompt: up to the start of the assistant's answer or, with `continue_final_message`, up to the
        end of the last message's text. `escape` is applied to every text of the caller. `variables`:
        further variables for the template. Raises TemplateError.
        """
        own = next((name for name in variables or () if name in _RESERVED), None)
        if own is not None:
            raise TemplateError(f"a request cannot set {own!r}", param=f"chat_template_kwargs.{own}")
        if continue_final_message and (not messages or messages[-1].tool_calls):
            raise TemplateError("the last message has no text to go on with", param="continue_final_message")
        if self.problem is not None:
            raise TemplateError(self.problem, param="messages")
        escaped = {name: _escaped(value, escape) for name, value in (variables or {}).items()}
        starts_answer = add_generation_prompt and not continue_final_message
        inputs = Inputs(tools, escape, escaped, starts_answer, continue_final_message)
        rendered = self._render_any(messages, inputs)
        return _up_to_the_end(rendered) if continue_final_message else rendered

    def _render_any(self, messages: Messages, inputs: Inputs) -> str:
        """Render the first rewriting of the messages that the template accepts; one that omits a system
        message only if there is no other. Raises the error about the original messages if there is none.
        """
        first: TemplateError | None = None
        lossy: str | None = None
        adapted = self._adapted(messages, inputs.tools)
        for rewriting in adapting.rewritten(adapted):
            try:
                rendered = self._write(rewriting, inputs)
            except TemplateStopped:
                raise
            except TemplateError as exc:
                first = first or exc
                continue
            # Some templates write the system message into the user's first one, so without that it is lost.
            has_others = any(message.role not in ("system", "developer") for message in adapted)
            if (first is None and has_others) or _has_system(rendered, adapted, inputs.escape):
                return rendered
            lossy = lossy or rendered
        if lossy is not None:
            return lossy
        assert first is not None, "either something was written or something was raised"
        raise first

    def _write(self, messages: Messages, inputs: Inputs) -> str:
        """Render exactly these messages. Raises TemplateError if the template refuses them."""
        values = dict(inputs.variables)
        try:
            contents = [self._as_template_value(message, inputs.escape) for message in messages]
            if inputs.continues_last:
                contents[-1]["content"] = f"{contents[-1]['content']}{_END}"
            values["messages"] = contents
            tools = inputs.tools if self.knows_tools else ()
            values["tools"] = [_as_tool(tool, inputs.escape) for tool in tools] or None
            values["add_generation_prompt"] = inputs.starts_answer
            with bounded(_parts(values), _characters(values)):
                rendered = self._template.render(values, **self._variables)
            rendered.encode()  # raises if the template created a lone surrogate
            return rendered
        except ServerError:
            raise
        except RunTooLong as exc:
            raise TemplateStopped(f"the chat template was stopped: {exc}", param="messages") from exc
        except Exception as exc:  # a template may raise whatever Python does
            reason = str(exc)[:MAX_REASON]
            raise TemplateError(
                f"the chat template refuses these messages: {reason}", param="messages"
            ) from exc

    def _adapted(self, messages: Messages, tools: tuple[Tool, ...]) -> Messages:
        """Rewrite what the template is known not to support: tools, results, system messages."""
        if tools and not self.knows_tools:
            messages = _with_instructions(messages, self.tool_format.instructions(tools))
        if not self._knows_results:
            messages = adapting.with_results_as_text(messages)
        if self._drops_system:
            messages = adapting.system_as_user(messages)
        return messages

    def _as_template_value(self, message: Message, escape: Callable[[str], str]) -> dict[str, object]:
        role = "system" if message.role == "developer" and not self._knows_developer else message.role
        value: dict[str, object] = {"role": role, "content": escape(message.text)}
        if message.name is not None:
            value["name"] = escape(message.name)
        if message.reasoning is not None:
            value["reasoning_content"] = escape(message.reasoning)
        if message.tool_call_id is not None:
            value["tool_call_id"] = escape(message.tool_call_id)
        if message.tool_calls and self._knows_tool_calls:
            value["tool_calls"] = [_as_tool_call(call, escape) for call in message.tool_calls]
        elif message.tool_calls:
            value["content"] = escape(adapting.text_of_calls(message))
        return value


def _up_to_the_end(rendered: str) -> str:
    end = rendered.rfind(_END)
    if end < 0:
        raise TemplateError(
            "the chat template does not write the text of the last message", param="continue_final_message"
        )
    return rendered[:end]


def _with_instructions(messages: tuple[Message, ...], instructions: str) -> tuple[Message, ...]:
    first = messages[0] if messages else None
    if first is None or first.role not in ("system", "developer"):
        return Message("system", instructions), *messages
    text = f"{first.text}\n\n{instructions}" if first.text else instructions
    return replace(first, text=text), *messages[1:]


def _has_system(rendered: str, messages: Messages, escape: Callable[[str], str]) -> bool:
    texts = (message.text.strip() for message in messages if message.role in ("system", "developer"))
    return all(escape(text) in rendered for text in texts)


def _parts(members: Mapping[str, object]) -> int:
    """The number of items in a template's input: messages, tools, and members of further variables."""
    return sum(len(value) for value in members.values() if isinstance(value, list | dict))


def _characters(value: object) -> int:
    if isinstance(value, dict):
        return sum(_characters(key) + _characters(one) for key, one in value.items())
    if isinstance(value, list):
        return sum(map(_characters, value))
    return len(value) if isinstance(value, str) else 8


def _as_tool(tool: Tool, escape: Callable[[str], str]) -> dict[str, object]:
    """A tool in OpenAI's shape, which templates expect."""
    function: dict[str, object] = {"name": tool.name, "description": tool.description or ""}
    function["parameters"] = dict(tool.parameters or {"type": "object", "properties": {}})
    return {"type": "function", "function": _escaped(function, escape)}


def _as_tool_call(call: ToolCall, escape: Callable[[str], str]) -> dict[str, object]:
    function = {"name": escape(call.name), "arguments": _arguments(call.arguments, escape)}
    return {"id": escape(call.id), "type": "function", "function": function}


def _arguments(text: str, escape: Callable[[str], str]) -> object:
    """The arguments as an object, which templates expect; as text if they are not JSON."""
    try:
        return _escaped(adapting.arguments(text), escape)
    except (ValueError, RecursionError):
        return escape(text)


def _escaped(value: object, escape: Callable[[str], str]) -> object:
    if isinstance(value, str):
        value.encode()  # raises for a lone surrogate, which JSON may contain and UTF-8 may not
        return escape(value)
    if isinstance(value, list):
        return [_escaped(item, escape) for item in value]
    if isinstance(value, dict):
        return {str(_escaped(key, escape)): _escaped(item, escape) for key, item in value.items()}
    return value
