"""Chat templates: the model's own Jinja source, rendered in a sandbox with the functions that published
templates use.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

import jinja2
import jinja2.meta
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node, Scope
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from headrace.errors import BadRequest
from headrace.text import reasoning, toolcalls
from headrace.types import Message, Tool, ToolCall

# For a model without a template: a plain transcript. Documented in docs/models.md.
FALLBACK = """{% for message in messages %}{{ message.role | capitalize }}: {{ message.content }}

{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"""


_RESERVED = ("messages", "tools", "add_generation_prompt", "bos_token", "eos_token")
_REFUSALS = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
_END = "\ufdd1"  # a Unicode noncharacter: stands where the message to go on with ends


class TemplateError(BadRequest):
    code = "chat_template_error"


class ChatTemplate:
    """Raises TemplateError when the source does not parse or refuses the messages. `tool_format`: how the
    model writes calls, where the source does not tell.
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
        try:
            environment = _environment()
            self._template = environment.from_string(self.source)
            self._reads = jinja2.meta.find_undeclared_variables(environment.parse(self.source))
        except jinja2.TemplateError as exc:
            raise TemplateError(f"the model's chat template does not parse: {exc}", param="messages") from exc
        self._knows_developer = "developer" in self.source
        self._knows_tool_calls = "tool_calls" in self.source
        own_format = tool_format or toolcalls.own_format(self.source)
        self.tool_format = own_format or toolcalls.detect(None)
        self.knows_tools = own_format is not None and self.supports("tools")
        self._knows_results = self._knows_tool_calls or any(
            role in self.source for role in ("'tool'", '"tool"')
        )
        self.thinking = reasoning.detect(self.source)

    def supports(self, variable: str) -> bool:
        """Whether the template reads this variable, as `enable_thinking`."""
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
        """The prompt text, up to where the assistant begins or, with `continue_final_message`, to the end of
        the last message's text. `escape` is applied to every text the caller wrote. `variables`: what the
        template may read besides; none of its own.
        """
        own = next((name for name in variables or () if name in _RESERVED), None)
        if own is not None:
            raise TemplateError(f"a request cannot set {own!r}", param=f"chat_template_kwargs.{own}")
        if continue_final_message and (not messages or messages[-1].tool_calls):
            raise TemplateError("the last message has no text to go on with", param="continue_final_message")
        try:
            values = self._as_template_values(messages, tools, escape)
            if continue_final_message:
                values[-1]["content"] = f"{values[-1]['content']}{_END}"
            given = {name: _escaped(value, escape) for name, value in (variables or {}).items()}
            given["messages"] = values
            given["tools"] = [_as_tool(tool, escape) for tool in tools if self.knows_tools] or None
            given["add_generation_prompt"] = add_generation_prompt and not continue_final_message
            rendered = self._template.render(given, **self._variables)
        except _REFUSALS as exc:
            raise TemplateError(f"the chat template refuses these messages: {exc}", param="messages") from exc
        return _up_to_the_end(rendered) if continue_final_message else rendered

    def _as_template_values(
        self, messages: tuple[Message, ...], tools: tuple[Tool, ...], escape: Callable[[str], str]
    ) -> list[dict[str, object]]:
        if tools and not self.knows_tools:
            messages = _with_instructions(messages, self.tool_format.instructions(tools))
        if not self._knows_results:
            messages = _with_results_as_text(messages)
        return [self._as_template_value(message, escape) for message in messages]

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
            written = [message.text] * bool(message.text) + [_as_text(call) for call in message.tool_calls]
            value["content"] = escape("\n".join(written))
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


def _with_results_as_text(messages: Sequence[Message]) -> tuple[Message, ...]:
    """For a template that knows no role `tool`: the user tells the results, those of one turn in one
    message, since some templates want the roles to alternate.
    """
    written: list[Message] = []
    for is_result, group in itertools.groupby(messages, lambda message: message.role == "tool"):
        if is_result:
            results = (f"<tool_response>\n{message.text}\n</tool_response>" for message in group)
            written.append(Message("user", "\n".join(results)))
        else:
            written += group
    return tuple(written)


def _as_tool(tool: Tool, escape: Callable[[str], str]) -> dict[str, object]:
    """As OpenAI has it, which is what templates are written for."""
    function: dict[str, object] = {"name": tool.name, "description": tool.description or ""}
    function["parameters"] = dict(tool.parameters or {"type": "object", "properties": {}})
    return {"type": "function", "function": _escaped(function, escape)}


def _as_tool_call(call: ToolCall, escape: Callable[[str], str]) -> dict[str, object]:
    function = {"name": escape(call.name), "arguments": _arguments(call.arguments, escape)}
    return {"id": escape(call.id), "type": "function", "function": function}


def _as_text(call: ToolCall) -> str:
    """For a template that knows no calls: better the model reads them as text than not at all."""
    function = json.dumps(
        {"name": call.name, "arguments": _arguments(call.arguments, str)}, ensure_ascii=False
    )
    return f"<tool_call>\n{function}\n</tool_call>"


def _arguments(text: str, escape: Callable[[str], str]) -> object:
    """Templates expect an object; what is not JSON goes in as text."""
    try:
        return _escaped(json.loads(text), escape)
    except (ValueError, RecursionError):
        return escape(text)


def _escaped(value: object, escape: Callable[[str], str]) -> object:
    if isinstance(value, str):
        value.encode()  # raises for half a surrogate pair: JSON can write it, text cannot hold it
        return escape(value)
    if isinstance(value, list):
        return [_escaped(item, escape) for item in value]
    if isinstance(value, dict):
        return {str(_escaped(key, escape)): _escaped(item, escape) for key, item in value.items()}
    return value


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}` marks training spans in published templates; here it is its
    content.
    """

    tags = {"generation"}  # noqa: RUF012  # jinja2 declares it as an instance variable

    def parse(self, parser: Parser) -> Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return Scope(body, lineno=line)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
    return environment


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Unlike Jinja's own filter, without HTML escapes: models were trained on plain JSON."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)
