"""The member `metadata`: pairs of strings that a caller attaches to a stored object."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from headrace.errors import BadRequest
from headrace.wire.limits import SHOWN, Pairs
from headrace.wire.parameters import RequestBody

MAX_PAIRS, MAX_KEY, MAX_VALUE = 16, 64, 512


def _check(pairs: dict[str, Any]) -> None:
    for key, value in pairs.items():
        param = f"metadata.{key[:SHOWN]}"
        if len(key) > MAX_KEY:
            raise BadRequest.at(param, f"a key has up to {MAX_KEY} characters")
        if not isinstance(value, str) or len(value) > MAX_VALUE:
            raise BadRequest.at(param, f"a value is a string of up to {MAX_VALUE} characters")


Metadata = Annotated[
    dict[str, str],
    Pairs(MAX_PAIRS, _check),
    Field(description=f"Up to {MAX_PAIRS} pairs; a key has up to {MAX_KEY} characters, a value {MAX_VALUE}."),
]


class MetadataBody(RequestBody):
    """The body that replaces an object's metadata; null removes it."""

    metadata: Metadata | None
