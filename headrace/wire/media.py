"""Reads images and files in a message: data URLs, http URLs, base64. Nothing is fetched."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from headrace.base64_text import decoded_pieces
from headrace.errors import BadRequest
from headrace.types import Media

DATA_URL = re.compile(r"data:(?P<type>[^;,]*)(?:;[^;,]+)*?;base64,", re.IGNORECASE)
ADDRESS = re.compile(r"https?://[^\s/]", re.IGNORECASE)
SHOWN = 40  # characters of a value that an error repeats


def at_url(url: str | None, param: str) -> Media:
    """The image at an address or in a data URL. Raises BadRequest, as do the functions below."""
    if url is not None and ADDRESS.match(url):
        return Media("image", url=url)
    return _from_data_url("image", url, param)


def file(data_url: str | None, name: str | None, param: str) -> Media:
    """The file in a data URL."""
    media = _from_data_url("document", data_url, param)
    is_image = (media.media_type or "").startswith("image/")
    return Media("image" if is_image else "document", data=media.data, media_type=media.media_type, name=name)


def file_at_url(url: str, name: str | None, param: str) -> Media:
    """The file at an address."""
    if not ADDRESS.match(url):
        raise BadRequest.at(param, f"an http address is needed, not {url[:SHOWN]!r}")
    return Media("document", url=url, name=name)


def check_base64(data: str, param: str) -> str:
    """Check base64 text, and return it unchanged."""
    if not data:
        raise BadRequest.at(param, "there is nothing in it")
    try:
        for _ in decoded_pieces(data):
            pass
    except ValueError as exc:
        raise BadRequest.at(param, "this is no base64") from exc
    return data


def mixed(parts: Sequence[str | Media]) -> tuple[str | Media, ...]:
    """The value of Message.parts: the parts, or () if all of them are text."""
    return tuple(parts) if any(isinstance(part, Media) for part in parts) else ()


def joined(parts: Sequence[str | Media], between: str = "\n") -> str:
    """The texts among the parts."""
    return between.join(part for part in parts if isinstance(part, str))


def _from_data_url(kind: Literal["image", "document"], url: str | None, param: str) -> Media:
    begin = DATA_URL.match(url or "")
    if begin is None or url is None:
        shown = "nothing" if url is None else repr(url[:SHOWN])
        raise BadRequest.at(param, f"a data URL in base64 is needed, not {shown}")
    data = check_base64(url[begin.end() :], param)
    return Media(kind, data=data, media_type=begin["type"].lower() or "application/octet-stream")
