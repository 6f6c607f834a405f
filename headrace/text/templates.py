"""Chat templates: the model's own Jinja source, rendered in a sandbox with the functions that published
templates use.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node, Scope
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from headrace.errors import BadRequest
from headrace.types import Message, ToolCall

# For a model without a template: a plain transcript. Documented in docs/models.md.
FALLBACK = """{% for message in messages %}{{ message.role | capitalize }}: {{ message.content }}

{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"""


class TemplateError(BadRequest):
    code = "chat_template_error"


class ChatTemplate:
    """Raises TemplateError when the source does not parse or refuses the messages."""

    def __init__(self, source: str | None, *, bos: str = "", eos: str = "") -> None:
        self.source = source or FALLBACK
        self._variables = {"bos_token": bos, "eos_token": eos}
        try:
            self._template = _environment().from_string(self.source)
        except jinja2.TemplateError as exc:
            raise TemplateError(f"the model's chat template does not parse: {exc}", param="messages") from exc
        self._knows_developer = "developer" in self.source
        self._knows_tool_calls = "tool_calls" in self.source

    def render(self, messages: tuple[Message, ...], *, escape: Callable[[str], str] = str) -> str:
        """The prompt text up to where the assistant begins. `escape` is applied to every text the caller
        wrote.
        """
        try:
            values = [self._as_template_value(message, escape) for message in messages]
            return self._template.render(messages=values, add_generation_prompt=True, **self._variables)
        except (
            jinja2.TemplateError,
            TypeError,
            ValueError,
            LookupError,
            AttributeError,
            ArithmeticError,
            RecursionError,
        ) as exc:
            raise TemplateError(f"the chat template refuses these messages: {exc}", param="messages") from exc

    def _as_template_value(self, message: Message, escape: Callable[[str], str]) -> dict[str, object]:
        role = "system" if message.role == "developer" and not self._knows_developer else message.role
        value: dict[str, object] = {"role": role, "content": escape(message.text)}
        if message.name is not None:
            value["name"] = escape(message.name)
        if message.tool_call_id is not None:
            value["tool_call_id"] = escape(message.tool_call_id)
        if message.tool_calls and self._knows_tool_calls:
            value["tool_calls"] = [_as_tool_call(call, escape) for call in message.tool_calls]
        elif message.tool_calls:
            written = [message.text] * bool(message.text) + [_as_text(call) for call in message.tool_calls]
            value["content"] = escape("\n".join(written))
        return value


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
