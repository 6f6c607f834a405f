"""One conversation: its messages, its parameters, and the answers to it. A message that names image files
takes them along; a model without eyes refuses them.
"""

from __future__ import annotations

import base64
import http.client
import json
import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.cli.connection import Connection, NoAnswer
from headrace.cli.writer import Writer, unechoed

CUT: dict[str | None, str] = {  # finish_reason → the notice below an incomplete answer
    "length": "(cut: the answer has reached its limit of tokens)",
    "content_filter": "(cut: a filter has ended the answer)",
    "interrupted": "(interrupted)",
    None: "(cut: the connection broke before the answer was complete)",
}
BROKEN = (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, AttributeError)

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


def images_in(text: str) -> list[Path]:
    """The image files that a message names, as far as they exist."""
    names = (match[2] or match[3].replace("\\ ", " ") for match in PATH.finditer(text))
    paths = (Path(name).expanduser() for name in dict.fromkeys(names))
    return [path for path in paths if path.is_file()]


def content_of(text: str) -> str | list[dict[str, Any]]:
    """The content of a message: its text, and the images that it names. Raises NoAnswer if one is none."""
    images = [{"type": "image_url", "image_url": {"url": _url(path)}} for path in images_in(text)]
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


@dataclass(slots=True)
class Answer:
    """What has come of an answer. `reason`: why it ended; None: it broke off."""

    text: str = ""
    reason: str | None = None
    first_s: float | None = None  # to the first piece
    took_s: float = 0.0
    usage: dict[str, Any] | None = None

    def figures(self) -> str:
        """Tokens, tokens a second and the time to the first one, as far as they are known."""
        count = (self.usage or {}).get("completion_tokens")
        parts = [] if count is None else [f"{count} tokens"]
        if self.first_s is not None:
            rest_s = self.took_s - self.first_s
            if count and count > 1 and rest_s > 0:
                parts.append(f"{(count - 1) / rest_s:.1f} tokens/s")
            parts.append(f"first after {self.first_s:.2f} s")
        return ", ".join(parts)


class Session:
    """`conversation`: the name of a conversation that the server keeps, found or made by
    `open_conversation`; `folder`: where conversations are saved as files.
    """

    def __init__(
        self,
        connection: Connection,
        model: str,
        writer: Writer,
        *,
        system: str | None = None,
        conversation: str | None = None,
        is_verbose: bool = False,
        folder: Path,
    ) -> None:
        self._connection, self._writer = connection, writer
        self.model, self.system, self.is_verbose = model, system, is_verbose
        self.conversation = conversation
        self._conversation_id: str | None = None
        self.saved = folder / "chats"
        self.messages: list[dict[str, Any]] = []  # as chat completions have them
        self.parameters: dict[str, float | int] = {}

    @property
    def url(self) -> str:
        return self._connection.url

    def models(self) -> list[str]:
        """The ids of the server's models. Raises NoAnswer."""
        return self._connection.models()

    @property
    def is_kept(self) -> bool:
        """Whether the server keeps the conversation."""
        return self._conversation_id is not None

    def clear(self) -> None:
        """Forget the conversation. One that the server keeps stays there, and another takes its name."""
        self.messages.clear()
        if self._conversation_id is not None:
            with suppress(NoAnswer):  # somebody has deleted it
                self._connection.post(f"/v1/conversations/{self._conversation_id}", {"metadata": {}})
            self._conversation_id = self._created()

    def open_conversation(self) -> None:
        """Find the conversation of this name on the server, with its messages, or make it. Raises
        NoAnswer.
        """
        if self.conversation is None or self._conversation_id is not None:
            return
        listed = self._connection.all("/v1/conversations")
        named = (one["id"] for one in listed if (one.get("metadata") or {}).get("name") == self.conversation)
        found = next(named, None)
        self._conversation_id = found or self._created()
        if found is not None:
            items = self._connection.all(f"/v1/conversations/{found}/items")
            self.messages[:0] = [message_of(item) for item in items if item["type"] == "message"][::-1]
            print(f"{self.conversation} goes on.", file=sys.stderr)

    def ask(self, text: str) -> bool:
        """Answer a message. Returns whether there was an answer; an error is printed."""
        answer = Answer()
        try:
            content = content_of(text)
            self.open_conversation()
        except NoAnswer as exc:
            print(f"error: {exc.message}", file=sys.stderr)
            return False
        self.messages.append({"role": "user", "content": content})
        try:
            self._stream(answer)
        except NoAnswer as exc:
            self._writer.end()
            print(f"error: {exc.message}", file=sys.stderr)
            self.messages.pop()
            return False
        self._writer.end()
        if answer.reason != "stop":
            print(CUT.get(answer.reason, f"(the answer ended with {answer.reason!r})"), file=sys.stderr)
        if self.is_verbose and (figures := answer.figures()):
            print(f"({figures})", file=sys.stderr)
        self.messages.append({"role": "assistant", "content": answer.text})
        return True

    def _created(self) -> str:
        body = {"metadata": {"name": self.conversation}}
        return str(self._connection.post("/v1/conversations", body)["id"])

    def _stream(self, answer: Answer) -> None:
        """Write an answer as it comes. Ctrl-C ends it. Raises NoAnswer."""
        began = time.perf_counter()
        try:
            with unechoed(), self._connection.open("POST", "/v1/chat/completions", self._body()) as response:
                for chunk in chunks(response):
                    self._read(chunk, answer, began)
        except KeyboardInterrupt:
            answer.reason = "interrupted"
        except NoAnswer:
            raise
        except BROKEN:
            answer.reason = None
        answer.took_s = time.perf_counter() - began

    def _read(self, chunk: dict[str, Any], answer: Answer, began: float) -> None:
        if "error" in chunk:
            raise NoAnswer(chunk["error"]["message"])
        answer.usage = chunk.get("usage") or answer.usage
        for choice in chunk.get("choices", ()):
            piece, thought = choice["delta"].get("content") or "", choice["delta"].get("reasoning_content")
            if (piece or thought) and answer.first_s is None:
                answer.first_s = time.perf_counter() - began
            if thought:
                self._writer.think(thought)
            answer.text += piece
            answer.reason = choice.get("finish_reason") or answer.reason
            self._writer.write(piece)

    def _body(self) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.model, "stream": True, **self.parameters}
        if self.is_verbose:
            body["stream_options"] = {"include_usage": True}
        system = [{"role": "system", "content": self.system}] if self.system else []
        if self._conversation_id is None:
            return {**body, "messages": [*system, *self.messages]}
        # the server has the messages before the last one
        return {**body, "conversation": self._conversation_id, "messages": [*system, self.messages[-1]]}


def message_of(item: dict[str, Any]) -> dict[str, Any]:
    """An item of a conversation as a message of text, for what is saved on this machine."""
    content = item["content"]
    parts = [part.get("text") or "" for part in content] if isinstance(content, list) else [content]
    return {"role": item["role"], "content": "".join(parts)}


def chunks(response: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The data of an event stream. Raises ValueError."""
    for line in response:
        name, _, data = line.decode().strip().partition(":")
        if name == "data" and data.strip() != "[DONE]":
            chunk = json.loads(data)
            if not isinstance(chunk, dict):
                raise ValueError("an event of another shape")
            yield chunk
