"""How much work items are decides whether they are read on the event loop."""

from __future__ import annotations

import json
from typing import Any

import pytest

from headrace.offload import SMALL
from headrace.turns.history import ITEM, weight
from headrace.types import Thought
from headrace.wire.items import ItemBody, to_items
from headrace.wire.items.build import seal_summary, seal_thoughts
from headrace.wire.parameters import RequestBody, parse

LONG = "x" * 300_000
IMAGE = "data:image/png;base64,iVBORw0KGgo" + "A" * 400_001
ITEMS: dict[str, dict[str, Any]] = {
    "sealed thoughts": {
        "type": "reasoning", "summary": [], "encrypted_content": seal_thoughts([Thought(LONG, "s")])
    },
    "a sealed summary": {"type": "compaction", "encrypted_content": seal_summary(LONG)},
    "an image": {"role": "user", "content": [{"type": "input_image", "image_url": IMAGE}]},
}  # fmt: skip


class Body(RequestBody):
    input: str | list[ItemBody]


@pytest.mark.parametrize("name", ITEMS)
def test_what_is_decoded_counts_by_its_size(name: str) -> None:
    body = parse(Body, json.dumps({"input": [ITEMS[name]]}).encode())
    assert ITEM * weight(body.input) > 4 * SMALL
    assert ITEM * weight(to_items(body.input, "input")) > 4 * SMALL


def test_texts_count_as_one_item_each() -> None:
    body = parse(Body, json.dumps({"input": [{"role": "user", "content": LONG}] * 3}).encode())
    assert weight(body.input) == weight(to_items(body.input, "input")) == 3


def test_parts_count_beside_their_items() -> None:
    parts = [{"type": "input_text", "text": "x"}] * 2000
    body = parse(Body, json.dumps({"input": [{"role": "user", "content": parts}]}).encode())
    assert ITEM * weight(body.input) > 4 * SMALL
    assert ITEM * weight(to_items(body.input, "input")) > 4 * SMALL
