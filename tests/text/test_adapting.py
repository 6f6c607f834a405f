"""Conversations that a template has no place for are said in other words: nothing is lost or refused."""

from __future__ import annotations

import re

import pytest

from headrace.text.templates import ChatTemplate
from headrace.types import Message, Tool, ToolCall
from tests.text.families import FAMILIES

CALL = ToolCall("call_1", "weather", '{"city": "PLACE"}')
OTHER = ToolCall("call_2", "time", "{}")
CONVERSATIONS: dict[str, tuple[Message, ...]] = {
    "L14 result, then the user": (
        Message("user", "ONE"),
        Message("assistant", "", tool_calls=(CALL,)),
        Message("tool", "TWO", tool_call_id="call_1"),
        Message("user", "THREE"),
    ),
    "L14 two results, then the user": (
        Message("system", "ONE"),
        Message("user", "TWO"),
        Message("assistant", "", tool_calls=(CALL, OTHER)),
        Message("tool", "THREE", tool_call_id="call_1"),
        Message("tool", "FOUR", tool_call_id="call_2"),
        Message("user", "FIVE"),
    ),
    "L14 an answer between": (
        Message("user", "ONE"),
        Message("assistant", "", tool_calls=(CALL,)),
        Message("tool", "TWO", tool_call_id="call_1"),
        Message("assistant", "THREE"),
        Message("user", "FOUR"),
    ),
    "L14 two of the user": (Message("user", "ONE"), Message("user", "TWO")),
    "L14 two of the assistant": (
        Message("user", "ONE"),
        Message("assistant", "TWO"),
        Message("assistant", "THREE"),
        Message("user", "FOUR"),
    ),
    "L14 the assistant first": (Message("assistant", "ONE"), Message("user", "TWO")),
    "L14 system, then the assistant": (
        Message("system", "ONE"),
        Message("assistant", "TWO"),
        Message("user", "THREE"),
    ),
    "L14 a system message": (Message("system", "ONE"), Message("user", "TWO")),
    "L14 two system messages": (
        Message("system", "ONE"),
        Message("developer", "TWO"),
        Message("user", "THREE"),
    ),
    "L14 a system message later": (
        Message("user", "ONE"),
        Message("assistant", "TWO"),
        Message("system", "THREE"),
        Message("user", "FOUR"),
    ),
    "L14 only a system message": (Message("system", "ONE"),),
    "L14 a result last": (
        Message("user", "ONE"),
        Message("assistant", "", tool_calls=(CALL,)),
        Message("tool", "TWO", tool_call_id="call_1"),
    ),
}
WORDS = re.compile("ONE|TWO|THREE|FOUR|FIVE")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("case", CONVERSATIONS)
def test_everything_said_is_written_once(family: str, case: str) -> None:
    messages = CONVERSATIONS[case]
    rendered = ChatTemplate(FAMILIES[family], bos="<s>", eos="</s>").render(messages)
    said = WORDS.findall(" ".join(message.text for message in messages))
    written = WORDS.findall(rendered)
    if family == "mistral-instruct-0.3":  # it writes the system message before the last of the user's
        said, written = sorted(said), sorted(written)
    assert written == said
    assert ("PLACE" in rendered) == any(message.tool_calls for message in messages)


def test_what_a_template_takes_is_not_changed() -> None:
    messages = CONVERSATIONS["L14 two of the user"]
    assert ChatTemplate(FAMILIES["chatml"]).render(messages) == "<|user|>ONE<|user|>TWO"
    alternating = ChatTemplate(FAMILIES["mistral-instruct-0.1"], bos="<s>", eos="</s>")
    assert alternating.render(messages) == "<s>[INST] ONE\nTWO [/INST]"


def test_tools_reach_a_template_without_a_system_role() -> None:
    rendered = ChatTemplate(FAMILIES["gemma"]).render((Message("user", "hi"),), tools=(Tool("weather"),))
    assert rendered.startswith("<start_of_turn>user\n")
    assert "weather" in rendered
    assert rendered.rstrip().endswith("model")


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_that_is_begun_is_gone_on_with_in_every_family(family: str) -> None:
    messages = (*CONVERSATIONS["L14 two of the user"], Message("assistant", "begun"))
    rendered = ChatTemplate(FAMILIES[family]).render(messages, continue_final_message=True)
    assert rendered.endswith("begun")
