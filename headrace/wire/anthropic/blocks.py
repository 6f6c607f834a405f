"""Content blocks of requests, and their conversion to text and Media.

Blocks of server tools in a history are skipped; `skipped` returns their paths. `written` keeps the blocks for
providers of the same dialect.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from headrace.errors import BadRequest, UnsupportedParameter
from headrace.finite import dumps_large
from headrace.types import Json, Media
from headrace.wire import media
from headrace.wire.generation import JsonObject
from headrace.wire.limits import MAX_PARTS, at_most
from headrace.wire.messages import RedactedThinkingBlock, ThinkingBlock
from headrace.wire.parameters import ByType, RequestBody


class Block(RequestBody):
    cache_control: JsonObject | None = Field(
        None, description="For Anthropic. Models that run here cache every prompt."
    )


class TextBlock(Block):
    type: Literal["text"]
    text: str


class Source(RequestBody):
    """Where an image or a document comes from. `base64` and `text` need `data`, `url` needs `url`, `content`
    needs `content`.
    """

    type: Literal["base64", "url", "text", "content", "file"]
    media_type: str | None = None
    data: str | None = None
    url: str | None = None
    content: str | InnerBlocks | None = None


class ImageBlock(Block):
    type: Literal["image"]
    source: Source


class DocumentBlock(Block):
    type: Literal["document"]
    source: Source
    title: str | None = None


class SearchResultBlock(Block):
    type: Literal["search_result"]
    title: str
    source: str
    content: Annotated[list[TextBlock], at_most(MAX_PARTS)]


class ThinkingOfHistory(Block, ThinkingBlock):
    pass


class RedactedOfHistory(Block, RedactedThinkingBlock):
    pass


class ToolUseBlock(Block):
    type: Literal["tool_use"]
    id: str
    name: str
    input: JsonObject


class ToolResultBlock(Block):
    type: Literal["tool_result"]
    tool_use_id: str
    content: str | InnerBlocks | None = None
    is_error: bool | None = False


class OtherBlock(RequestBody):
    """A block of a server tool, which no backend supports."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)
    type: str


BY_TYPE = ByType("block_type", "a content block is an object with a type")
InnerBlock = Annotated[TextBlock | ImageBlock | DocumentBlock | SearchResultBlock | OtherBlock, BY_TYPE]
InnerBlocks = Annotated[list[InnerBlock], at_most(MAX_PARTS)]
AnyBlock = Annotated[
    TextBlock
    | ImageBlock
    | DocumentBlock
    | SearchResultBlock
    | ThinkingOfHistory
    | RedactedOfHistory
    | ToolUseBlock
    | ToolResultBlock
    | OtherBlock,
    BY_TYPE,
]
Part = str | Media


def parts(content: str | Sequence[AnyBlock] | None, path: str) -> list[Part]:
    """The texts and media of a content, in order, without blocks of other types. Raises BadRequest."""
    if content is None or isinstance(content, str):
        return [content] if content else []
    return [part for index, block in enumerate(content) for part in _parts(block, f"{path}.{index}")]


def skipped(content: str | Sequence[AnyBlock] | None, path: str) -> Iterator[str]:
    """The paths of blocks of unknown types, at any depth."""
    for index, block in enumerate(() if isinstance(content, str | None) else content):
        at = f"{path}.{index}"
        if isinstance(block, OtherBlock):
            yield at
        elif isinstance(block, ToolResultBlock):
            yield from skipped(block.content, f"{at}.content")
        elif isinstance(block, DocumentBlock):
            yield from skipped(block.source.content, f"{at}.source.content")


# members of blocks that no other dialect has, besides those that the models declare
OWN = ("citations", "context", "transformations")


def written(blocks: Sequence[AnyBlock]) -> tuple[Json, ...]:
    """The blocks as their caller wrote them, for Message.blocks: () if text, media and calls say the same."""
    return tuple(map(_as_written, _known(blocks))) if any(map(_says_more, blocks)) else ()


def _says_more(block: AnyBlock) -> bool:
    if isinstance(block, OtherBlock):
        return False
    if block.cache_control is not None or any((block.model_extra or {}).get(name) for name in OWN):
        return True
    if isinstance(block, DocumentBlock):
        return block.source.type in ("text", "content")
    if isinstance(block, ToolResultBlock):
        inner = () if isinstance(block.content, str | None) else block.content
        return bool(block.is_error) or any(map(_says_more, inner))
    return isinstance(block, SearchResultBlock)


def _known(blocks: Sequence[AnyBlock]) -> list[AnyBlock]:
    return [block for block in blocks if not isinstance(block, OtherBlock)]


def _as_written(body: RequestBody) -> dict[str, Any]:
    """A block or its source as JSON, without the members that Anthropic does not know."""
    known = (*type(body).model_fields, *OWN)
    return {name: _json(value) for name, value in body if name in known and value is not None}


def _json(value: Any) -> Any:
    if isinstance(value, list) and any(isinstance(each, RequestBody) for each in value):
        return [_as_written(block) for block in _known(value)]
    return _as_written(value) if isinstance(value, RequestBody) else value


def arguments(block: ToolUseBlock) -> str:
    return dumps_large(block.input)


def _parts(block: AnyBlock, param: str) -> list[Part]:
    if isinstance(block, TextBlock):
        return [block.text]
    if isinstance(block, ImageBlock):
        return [_media("image", block.source, None, param)]
    if isinstance(block, DocumentBlock):
        return _document(block, param)
    if isinstance(block, SearchResultBlock):
        return ["\n".join([block.title, block.source, *(inner.text for inner in block.content)])]
    return []


def _document(block: DocumentBlock, param: str) -> list[Part]:
    """A document; one with text becomes plain text, which all models read."""
    source, title = block.source, [block.title] if block.title else []
    if source.type == "text":
        return ["\n\n".join([*title, _needed(source.data, f"{param}.source.data")])]
    if source.type == "content":
        inner = parts(source.content, f"{param}.source.content")
        return [*title, *inner]
    return [_media("document", source, block.title, param)]


def _media(kind: Literal["image", "document"], source: Source, name: str | None, param: str) -> Media:
    at = f"{param}.source"
    if source.type == "url":
        return Media(kind, url=_needed(source.url, f"{at}.url"), name=name)
    if source.type == "base64":
        data = media.check_base64(_needed(source.data, f"{at}.data"), f"{at}.data")
        return Media(kind, data=data, media_type=_needed(source.media_type, f"{at}.media_type"), name=name)
    raise UnsupportedParameter.at(at, f"{source.type} is not supported here; send base64")


def _needed(value: str | None, param: str) -> str:
    if value is None:
        raise BadRequest.at(param, "Field required")
    return value
