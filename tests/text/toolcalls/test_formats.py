from __future__ import annotations

import pytest

from headrace.text.toolcalls import FORMATS, ToolFormat, detect, own_format
from tests.text.toolcalls.calls import EVERY, TOOLS


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("{{ '<tool_call>' }}{% for call in message.tool_calls %}", "hermes"),
        ("{{ '<|python_tag|>' + call.name }}", "llama3"),
        ("{{ '[TOOL_CALLS][' }}", "mistral"),
        ("{{ '[TOOL_CALLS]' + name + '[ARGS]' }}", "mistral-args"),
    ],
)
def test_format_is_the_templates_own(source: str, name: str) -> None:
    assert detect(source).name == name
    assert own_format(source) is FORMATS[name]


@pytest.mark.parametrize("source", [None, "", "{{ messages }}", "<tool_call>\n<function={{ name }}>"])
def test_template_without_a_known_format_gets_ours(source: str | None) -> None:
    assert own_format(source) is None
    assert detect(source) is FORMATS["hermes"]


@EVERY
def test_instructions_show_every_tool_and_the_syntax(format: ToolFormat) -> None:
    said = format.instructions(TOOLS)
    assert '"name": "get"' in said
    assert '"description": "The weather of a city."' in said
    assert all(marker in said for marker in format.markers)
    assert "NAME" not in said
