"""The hashes of items do not depend on how long their texts are."""

from __future__ import annotations

import hashlib
import json

from headrace.finite import PIECE
from headrace.store.hashing import digest, to_json


def test_the_hash_of_a_long_text_is_stable() -> None:
    for text in ("é😀" * PIECE, "\ud800" + "x" * (PIECE + 1)):
        body = {"type": "message", "content": [{"text": text}]}
        canonical = json.dumps(["me", None, body], sort_keys=True, separators=(",", ":"))
        assert digest("me", None, body) == hashlib.sha256(canonical.encode()).hexdigest()
        assert json.loads(to_json(body)) == body
        to_json(body).encode()
