"""The human-readable message in the body of a provider's error, in any dialect."""

from __future__ import annotations

from headrace.dialects.values import valid, whole

MEMBERS = ("error", "errors", "message", "detail", "msg", "error_description", "title")  # in order of rank
MAX_DEPTH = 8
MAX_WORDS = 4000  # characters
MAX_SEVERAL = 3  # messages that are quoted of a list of errors


def message_of(raw: str) -> str:
    """The message of an error's JSON body; "" if the body is not JSON (it may be an HTML page).

    Reads {"error": {"message"}}, {"error": text}, {"message"}, {"detail"}, lists of such errors (FastAPI's
    have a location), and `metadata.raw`, where a router quotes the provider behind it.
    """
    try:
        found = whole(raw)
    except (ValueError, RecursionError):
        return ""
    return _words(found, MAX_DEPTH)[:MAX_WORDS]


def _words(found: object, depth: int) -> str:
    if isinstance(found, str):
        return valid(found)
    if not depth:
        return ""
    if isinstance(found, list):
        several = (_words(entry, depth - 1) for entry in found[:MAX_SEVERAL])
        return "; ".join(filter(None, several))
    if not isinstance(found, dict):
        return ""
    words = next((text for name in MEMBERS if (text := _words(found.get(name), depth - 1))), "")
    at = _place(found.get("loc"))
    quoted = _quoted(found.get("metadata"), depth - 1)
    if quoted and quoted not in words:
        words = f"{words}: {quoted}" if words else quoted
    return f"{at}: {words}" if at and words else words


def _place(location: object) -> str:
    """FastAPI's location of an error as a path, such as body.messages.0."""
    parts = location if isinstance(location, list) else []
    return ".".join(str(part) for part in parts[:MAX_DEPTH] if isinstance(part, str | int))[:200]


def _quoted(metadata: object, depth: int) -> str:
    """The error of the provider behind a router, which is often JSON inside a string."""
    raw = metadata.get("raw") if isinstance(metadata, dict) else None
    if not isinstance(raw, str):
        return _words(raw, depth)
    return message_of(raw) if raw.lstrip().startswith(("{", "[")) and depth > 0 else valid(raw)
