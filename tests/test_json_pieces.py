"""JSON in pieces equals the output of Python's encoder: prompts and the hashes of items depend on it."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.json_pieces import COMPACT, LONG, USUAL, dumps, pieces

TEXT = st.text(st.characters(exclude_categories=())) | st.sampled_from(
    ["\ud83d", "\ude00", "é" * 9, '\0\n"\\']
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


# a busy machine makes no test fail
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(JSON, st.sampled_from([USUAL, COMPACT]), st.integers(1, 5), st.booleans(), st.booleans())
def test_pieces_join_to_the_encoders_output(
    value: Any, separators: tuple[str, str], long: int, ensure_ascii: bool, sort_keys: bool
) -> None:
    whole = json.dumps(value, ensure_ascii=ensure_ascii, sort_keys=sort_keys, separators=separators)
    found = pieces(value, separators, ensure_ascii=ensure_ascii, sort_keys=sort_keys, long=long)
    assert "".join(found) == whole


def test_a_long_text_is_written_as_pythons_encoder_writes_it() -> None:
    value = {"name": "look", "arguments": {"at": 'é😀"\n' * LONG, "numbers": [1, 2.5, None]}}
    assert dumps(value) == json.dumps(value, ensure_ascii=False)
    assert len(list(pieces(value))) > 4
