from __future__ import annotations

import json
import re

import pytest

from headrace.models.catalog import Model
from headrace.text.templates import ChatTemplate, TemplateError
from headrace.text.toolcalls import FORMATS
from headrace.types import Message, Tool, ToolCall

USER = Message("user", "hi")
WEATHER = Tool("weather", "In a city", {"type": "object", "properties": {"city": {"type": "string"}}})
QWEN = """{% if tools %}{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<tool_call>
{% endif %}{% for message in messages %}[{{ message.role }}] {{ message.content | trim }}
{% if message.tool_calls %}{{ message.tool_calls | tojson }}
{% endif %}{% endfor %}{% if add_generation_prompt %}[assistant]
{%- if enable_thinking is defined %} think{% endif %}{% endif %}"""
CALL = ToolCall("call_1", "weather", '{"city": "Oslo", "days": [1, 2]}')


def render(source: str, *messages: Message) -> str:
    return ChatTemplate(source, bos="<s>", eos="</s>").render(messages or (USER,))


def test_models_own_template_is_used(default_model: Model) -> None:
    rendered = ChatTemplate(default_model.chat_template).render((Message("system", "Be brief."), USER))
    assert rendered == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("source", [None, ""])
def test_a_model_without_a_template_does_not_chat(source: str | None) -> None:
    template = ChatTemplate(source)
    assert template.refusal is not None
    with pytest.raises(TemplateError, match="no chat template"):
        template.render((USER,))


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


def test_reason_that_a_template_gives_is_reported() -> None:
    with pytest.raises(TemplateError, match="roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


def test_template_that_does_not_parse_says_so() -> None:
    template = ChatTemplate("{% for %}")
    assert template.problem is not None
    with pytest.raises(TemplateError, match="does not parse"):
        template.render((USER,))


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


def test_tools_reach_a_template_that_takes_them() -> None:
    rendered = ChatTemplate(QWEN).render((USER,), tools=(WEATHER, Tool("now")))
    first, second, *rest = rendered.splitlines()
    function = {"name": "weather", "description": "In a city", "parameters": WEATHER.parameters}
    assert json.loads(first) == {"type": "function", "function": function}
    assert json.loads(second)["function"]["parameters"] == {"type": "object", "properties": {}}
    assert rest == ["<tool_call>", "[user] hi", "[assistant]"]


def test_template_without_tools_sees_none() -> None:
    assert render("{{ tools is none }}{{ tools | length if tools else 0 }}") == "True0"


@pytest.mark.parametrize(
    ("source", "knows_tools", "format"),
    [
        (QWEN, True, "hermes"),
        ("{% set tools = tools or [] %}{{ tools }}[TOOL_CALLS]", True, "mistral"),
        ("{% macro f() %}{{ tools }}{% endmacro %}{{ f() }}<|python_tag|>", True, "llama3"),
        ("{% if not tools is defined %}{% set tools = 1 %}{% endif %}{{ tools }}<tool_call>", True, "hermes"),
        ("{{ 'tools' }}{{ message.tools }}<tool_call>", False, "hermes"),
        ("{% set tools = [] %}{{ tools }}<tool_call>", False, "hermes"),
        ("{{ tools }} in a format that nobody knows", False, "hermes"),
    ],
)
def test_template_knows_tools_when_it_reads_them(source: str, knows_tools: bool, format: str) -> None:
    template = ChatTemplate(source)
    assert (template.knows_tools, template.tool_format.name) == (knows_tools, format)


def test_format_may_be_named() -> None:
    template = ChatTemplate("{{ tools | length }}", tool_format=FORMATS["llama3"])
    assert template.tool_format.name == "llama3"
    assert template.render((USER,), tools=(WEATHER,)) == "1"


@pytest.mark.parametrize(
    "messages", [(USER,), (Message("system", "Be brief."), USER), (Message("developer", "Be brief."), USER)]
)
def test_template_that_takes_no_tools_gets_them_in_the_system_message(
    messages: tuple[Message, ...], default_model: Model
) -> None:
    template = ChatTemplate(default_model.chat_template)
    rendered = template.render(messages, tools=(WEATHER,))
    instructions = FORMATS["hermes"].instructions((WEATHER,))
    system = f"Be brief.\n\n{instructions}" if len(messages) == 2 else instructions
    assert rendered.startswith(f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n")


def test_tool_results_are_a_users_text_for_a_template_that_knows_no_tools(default_model: Model) -> None:
    said = Message("assistant", "", tool_calls=(CALL, CALL))
    results = (
        Message("tool", "sunny", tool_call_id="call_1"),
        Message("tool", "rain", tool_call_id="call_2"),
    )
    rendered = ChatTemplate(default_model.chat_template).render((USER, said, *results, USER))
    expected = "<tool_response>\nsunny\n</tool_response>\n<tool_response>\nrain\n</tool_response>"
    assert f"<|im_start|>user\n{expected}<|im_end|>\n<|im_start|>user\nhi<|im_end|>" in rendered


def test_reasoning_reaches_the_template() -> None:
    said = Message("assistant", "Hello.", reasoning="A greeting.")
    assert render("{{ messages[0].reasoning_content }}", said) == "A greeting."
    assert render("{{ messages[0].reasoning_content is defined }}") == "False"


def test_prompt_may_end_without_the_assistants_turn() -> None:
    assert ChatTemplate(QWEN).render((USER,), add_generation_prompt=False) == "[user] hi\n"


@pytest.mark.parametrize("beginning", ["", "The weather ", "hi", "<|im_end|>"])
def test_last_message_is_gone_on_with(beginning: str, default_model: Model) -> None:
    messages = (USER, Message("assistant", beginning))
    assert ChatTemplate(QWEN).render(messages, continue_final_message=True) == (
        f"[user] hi\n[assistant] {beginning}"
    )
    rendered = ChatTemplate(default_model.chat_template).render(messages, continue_final_message=True)
    assert rendered.endswith(f"<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n{beginning}")


@pytest.mark.parametrize("messages", [(), (Message("assistant", "", tool_calls=(CALL,)),)])
def test_nothing_to_go_on_with_is_the_callers_error(messages: tuple[Message, ...]) -> None:
    with pytest.raises(TemplateError) as raised:
        ChatTemplate(QWEN).render(messages, continue_final_message=True)
    assert raised.value.param == "continue_final_message"


def test_template_that_drops_the_last_message_cannot_go_on() -> None:
    with pytest.raises(TemplateError, match="does not write"):
        ChatTemplate("{{ messages[0].role }}").render((USER,), continue_final_message=True)


def test_variables_of_the_caller_reach_the_template() -> None:
    template = ChatTemplate(QWEN)
    assert template.render((USER,), variables={"enable_thinking": False}).endswith("[assistant] think")
    assert template.supports("enable_thinking")
    assert not template.supports("reasoning_effort")
    prompt = ChatTemplate("{{ style }}").render((USER,), variables={"style": "s"}, escape="<{}>".format)
    assert prompt == "<s>"


@pytest.mark.parametrize("name", ["messages", "tools", "add_generation_prompt", "bos_token", "eos_token"])
def test_variables_cannot_replace_what_is_the_templates_own(name: str) -> None:
    with pytest.raises(TemplateError) as raised:
        ChatTemplate(QWEN).render((USER,), variables={name: "x"})
    assert raised.value.param == f"chat_template_kwargs.{name}"


@pytest.mark.parametrize("source", ["{{ tools | tojson }}<tool_call>", "{{ messages | tojson }}"])
def test_escape_is_applied_to_tools(source: str) -> None:
    tool = Tool("weather", "in <|im_end|>", {"properties": {"<|im_end|>": {"enum": ["<|im_end|>"]}}})
    rendered = ChatTemplate(source).render(
        (USER,), tools=(tool,), escape=lambda text: text.replace("<|im_end|>", "END")
    )
    assert "<|im_end|>" not in rendered
    assert rendered.count("END") == 3
