from __future__ import annotations

import json
import re

import pytest

from headrace.models.catalog import Model
from headrace.text.templates import ChatTemplate, TemplateError
from headrace.types import Message, ToolCall

USER = Message("user", "hi")
CALL = ToolCall("call_1", "weather", '{"city": "Oslo", "days": [1, 2]}')


def render(source: str, *messages: Message) -> str:
    return ChatTemplate(source, bos="<s>", eos="</s>").render(messages or (USER,))


def test_models_own_template_is_used(default_model: Model) -> None:
    rendered = ChatTemplate(default_model.chat_template).render((Message("system", "Be brief."), USER))
    assert rendered == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_model_without_a_template_gets_a_transcript() -> None:
    messages = (Message("system", "Be brief."), USER, Message("assistant", "Hello."), USER)
    expected = "System: Be brief.\n\nUser: hi\n\nAssistant: Hello.\n\nUser: hi\n\nAssistant:"
    assert ChatTemplate(None).render(messages) == expected


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ messages.append(1) }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{{ '%c' | format('x' * 3) }}",
    ],
)
def test_template_cannot_leave_its_sandbox(attack: str) -> None:
    with pytest.raises(TemplateError) as raised:
        render(attack)
    assert (raised.value.status, raised.value.param) == (400, "messages")
    assert raised.value.code == "chat_template_error"


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[0].nothing.at_all }}",
        "{{ '{} {}'.format(1) }}",
        "{{ 1 // 0 }}",
        "{{ 'x' + 1 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_template_that_fails_is_the_callers_error(source: str) -> None:
    with pytest.raises(TemplateError):
        render(source)


def test_reason_that_a_template_gives_is_told() -> None:
    with pytest.raises(TemplateError, match="roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


def test_template_that_does_not_parse_says_so() -> None:
    with pytest.raises(TemplateError, match="does not parse"):
        ChatTemplate("{% for %}")


def test_functions_of_published_templates_work() -> None:
    assert re.fullmatch(r"\d{2} \w{3} \d{4}", render("{{ strftime_now('%d %b %Y') }}"))
    assert render("{{ messages | tojson }}") == '[{"role": "user", "content": "hi"}]'
    assert render("{{ {'a': '<é>'} | tojson(indent=2) }}") == '{\n  "a": "<é>"\n}'
    assert render("{{ bos_token }}{{ eos_token }}") == "<s></s>"
    assert render("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}") == "01"
    assert render("{% generation %}{{ messages[0].content }}{% endgeneration %}!") == "hi!"
    assert render("{%- set ns = namespace(x=1) -%}{% set ns.x = 2 %}{{ ns.x }}") == "2"


def test_developer_is_system_unless_the_template_knows_it() -> None:
    developer = Message("developer", "Be brief.")
    assert render("{{ messages[0].role }}", developer) == "system"
    assert render("{# developer #}{{ messages[0].role }}", developer) == "developer"


def test_tool_messages_reach_the_template() -> None:
    source = "{{ messages[0].tool_calls | tojson }} {{ messages[1] | tojson }}"
    said = Message("assistant", "", tool_calls=(CALL,))
    calls, _, answer = render(source, said, Message("tool", "sunny", tool_call_id="call_1")).partition("] ")
    function = {"name": "weather", "arguments": {"city": "Oslo", "days": [1, 2]}}
    assert json.loads(calls + "]") == [{"id": "call_1", "type": "function", "function": function}]
    assert json.loads(answer) == {"role": "tool", "content": "sunny", "tool_call_id": "call_1"}


def test_tool_calls_are_text_for_a_template_that_knows_none() -> None:
    said = Message("assistant", "Let me see.", tool_calls=(CALL,))
    rendered = render("{{ messages[0].content }}", said)
    assert rendered.startswith("Let me see.\n<tool_call>\n{")
    assert '"city": "Oslo"' in rendered


@pytest.mark.parametrize("arguments", ["not json", "[" * 100_000, '{"a": "\\ud800"}', "1" * 5_000])
def test_arguments_that_are_no_json_stay_text(arguments: str) -> None:
    said = Message("assistant", "", tool_calls=(ToolCall("a", "f", arguments),))
    rendered = render("{{ messages[0].tool_calls[0].function.arguments }}", said)
    assert rendered == arguments


def test_escape_is_applied_to_every_text_of_the_caller() -> None:
    call = ToolCall("i", "f", '{"k": ["v", 1, null]}')
    messages = (Message("assistant", "c", "n", (call,)), Message("tool", "r", tool_call_id="t"))
    source = "{{ messages | tojson }}{# tool_calls #}"
    rendered = ChatTemplate(source).render(messages, escape=lambda text: f"<{text}>")
    for text in ("c", "n", "i", "f", "k", "v", "r", "t"):
        assert f'"<{text}>"' in rendered
