"""Types of items, and ids for items and responses."""

from __future__ import annotations

import secrets
from typing import Literal

Kind = Literal["resp", "msg", "fc", "fco", "ctc", "ctco", "rs", "cmp"]
Type = Literal[
    "message",
    "function_call",
    "function_call_output",
    "custom_tool_call",
    "custom_tool_call_output",
    "reasoning",
    "compaction",
]

# type of item → prefix of its ids
PREFIXES: dict[Type, Kind] = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "reasoning": "rs",
    "compaction": "cmp",
}
# types of items that hosted tools produce: stored and echoed, but not shown to a model
HOSTED = (
    "additional_tools", "apply_patch_call", "apply_patch_call_output", "code_interpreter_call",
    "compaction_trigger", "computer_call", "computer_call_output", "configuration_update", "file_search_call",
    "image_generation_call", "local_shell_call", "local_shell_call_output", "mcp_approval_request",
    "mcp_approval_response", "mcp_call", "mcp_list_tools", "program", "program_output", "shell_call",
    "shell_call_output", "tool_search_call", "tool_search_output", "web_search_call",
)  # fmt: skip


def new_id(kind: Kind) -> str:
    return f"{kind}_{secrets.token_hex(24)}"
