"""Whether an answer is as its type says, which the OpenAPI document shows."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import TypeAdapter

adapter = cache(TypeAdapter[Any])


def check_documented(answer: object, type: object) -> None:
    """No member is missing, none is of another type, and there are no others."""
    assert adapter(type).validate_python(answer, extra="forbid", strict=True) == answer
