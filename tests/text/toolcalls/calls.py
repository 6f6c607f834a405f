"""Two tools, and calls of them."""

from __future__ import annotations

import pytest

from headrace.text.toolcalls import FORMATS, ToolFormat
from headrace.types import Tool

WEATHER = Tool(
    "get",
    "The weather of a city.",
    {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"$ref": "#/$defs/days"}},
        "required": ["city"],
        "$defs": {"days": {"type": "integer"}},
    },
)
TOOLS = (WEATHER, Tool("get_time"))  # one name begins the other
OSLO = '{"city": "Oslo", "days": 3}'
EVERY = pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)


def written(format: ToolFormat, *calls: tuple[str, str]) -> str:
    """The calls as the format has them."""
    texts = [format.head.replace("NAME", name) + arguments + format.tail for name, arguments in calls]
    return format.begin + format.opening + format.separator.join(texts) + format.closing
