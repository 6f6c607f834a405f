"""JSON in pieces equals the output of Python's encoder: the hashes of items depend on it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from headrace.store.hashing import LONG, digest, pieces, to_json

TEXT = st.text(st.characters(exclude_categories=())) | st.sampled_from(
    ["\ud83d", "\ude00", "é" * 9, '\0\n"\\']
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(JSON, st.integers(1, 5), st.booleans(), st.booleans())
def test_pieces_join_to_the_encoders_output(
    value: Any, long: int, ensure_ascii: bool, sort_keys: bool
) -> None:
    whole = json.dumps(value, ensure_ascii=ensure_ascii, sort_keys=sort_keys, separators=(",", ":"))
    found = pieces(value, ensure_ascii=ensure_ascii, sort_keys=sort_keys, long=long)
    assert "".join(found) == whole


def test_the_hash_of_a_long_text_is_stable() -> None:
    for text in ("é😀" * LONG, "\ud800" + "x" * (LONG + 1)):
        body = {"type": "message", "content": [{"text": text}]}
        canonical = json.dumps(["me", None, body], sort_keys=True, separators=(",", ":"))
        assert digest("me", None, body) == hashlib.sha256(canonical.encode()).hexdigest()
        assert json.loads(to_json(body)) == body
        to_json(body).encode()
