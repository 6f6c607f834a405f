"""Images in a chat: a message that names image files takes them along; a model without eyes refuses them."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

from headrace.cli.connection import NoAnswer

# a path with a slash before it, or in quotation marks, that ends as images do
ENDS = r"\.(?:png|jpe?g|gif|webp)"
PATH = re.compile(rf"""(["'])(.+?{ENDS})\1|((?:~|\.{{1,2}})?/(?:\\ |\S)*?{ENDS})(?!\w)""", re.IGNORECASE)
# how the file of an image begins → its media type
BEGINNINGS = {
    b"\x89PNG": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
}
MAX_BYTES = 20_000_000


def found_in(text: str) -> list[Path]:
    """The files that a message names, as far as they exist."""
    names = (match[2] or match[3].replace("\\ ", " ") for match in PATH.finditer(text))
    paths = (Path(name).expanduser() for name in dict.fromkeys(names))
    return [path for path in paths if path.is_file()]


def content(text: str) -> str | list[dict[str, Any]]:
    """The content of a message: its text, and the images that it names. Raises NoAnswer if one is none."""
    images = [{"type": "image_url", "image_url": {"url": _url(path)}} for path in found_in(text)]
    return [{"type": "text", "text": text}, *images] if images else text


def _url(path: Path) -> str:
    """The image as a data URL. Raises NoAnswer."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as exc:
        raise NoAnswer(f"{path} cannot be read: {exc.strerror}") from exc
    media_type = next((kind for begin, kind in BEGINNINGS.items() if data.startswith(begin)), None)
    if media_type is None:
        raise NoAnswer(f"{path} is no image: PNG, JPEG, GIF and WebP are")
    if len(data) > MAX_BYTES:
        raise NoAnswer(f"{path} is larger than {MAX_BYTES // 1_000_000} MB")
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
