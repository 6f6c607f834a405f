"""`metadata`: pairs of strings that a caller attaches to what is stored."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from headrace.wire.validation import RequestBody

MAX_PAIRS, MAX_KEY, MAX_VALUE = 16, 64, 512

Key = Annotated[str, StringConstraints(max_length=MAX_KEY)]
Value = Annotated[str, StringConstraints(max_length=MAX_VALUE)]
Metadata = Annotated[
    dict[Key, Value],
    Field(
        max_length=MAX_PAIRS,
        description=f"Up to {MAX_PAIRS} pairs; a key has up to {MAX_KEY} characters, a value {MAX_VALUE}.",
    ),
]


class MetadataBody(RequestBody):
    """The body that changes it. Null: there is none any more."""

    metadata: Metadata | None
