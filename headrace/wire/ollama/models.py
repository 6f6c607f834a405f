"""The JSON of Ollama's lists and descriptions of models, and the bodies that name one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from headrace.errors import BadRequest
from headrace.types import ModelCard, ModelInfo
from headrace.wire.parameters import RequestBody

LATEST = ":latest"  # the tag that Ollama adds to names; ours have none
FOR_EVER = timedelta(days=106_751)  # as Ollama writes it: the longest duration of its language
LATEST_SECOND = 253_402_300_799  # the last one that RFC 3339 can write


class NameBody(RequestBody):
    """A body that names a model, also by the older member `name`."""

    model: str | None = None
    name: str | None = Field(None, description="The older name of `model`.")

    @property
    def id(self) -> str:
        """Raises BadRequest."""
        found = self.model or self.name
        if not found:
            raise BadRequest.at("model", "Field required")
        return found


class ShowBody(NameBody):
    verbose: bool | None = Field(None, description="Ignored.")


class PullBody(NameBody):
    """The body of POST /api/pull."""

    stream: bool | None = True
    insecure: bool | None = Field(None, description="Ignored: registries are those of the configuration.")


class Details(TypedDict):
    """Facts about a model; those that are not known are empty texts."""

    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class Tag(TypedDict):
    name: str
    model: str
    modified_at: str
    size: NotRequired[Annotated[int, Field(description="Bytes on disk; absent: unknown.")]]
    digest: Annotated[str, Field(description="It changes when the model does. It is no hash of a file.")]
    details: Details


class Tags(TypedDict):
    models: list[Tag]


class Running(TypedDict):
    name: str
    model: str
    size: NotRequired[Annotated[int, Field(description="Bytes of memory; absent: unknown.")]]
    size_vram: int
    digest: str
    details: Details
    expires_at: str
    context_length: NotRequired[int]


class RunningModels(TypedDict):
    models: list[Running]


class Shown(TypedDict):
    """The answer of /api/show."""

    modelfile: str
    parameters: str
    template: str
    details: Details
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str
    license: NotRequired[str]
    system: Annotated[NotRequired[str], Field(description="Of a created model.")]
    messages: NotRequired[list[dict[str, Any]]]


class Version(TypedDict):
    version: Annotated[str, Field(description="The version of Ollama whose API this is.")]
    headrace: Annotated[str, Field(description="The version of this server.")]


class Status(TypedDict):
    """One line of a pull. Amounts are in bytes."""

    status: str
    digest: NotRequired[str]
    total: NotRequired[int]
    completed: NotRequired[int]


class Success(TypedDict):
    status: Literal["success"]


def tags(models: Iterable[tuple[ModelInfo, ModelCard]]) -> Tags:
    return {"models": [_tag(info, card) for info, card in models]}


def _tag(info: ModelInfo, card: ModelCard) -> Tag:
    tag: Tag = {
        "name": info.id,
        "model": info.id,
        "modified_at": _time(info.created),
        "digest": digest(info),
        "details": _details(info, card),
    }
    if card.size_bytes is not None:
        tag["size"] = card.size_bytes
    return tag


def running(
    info: ModelInfo, card: ModelCard, *, memory_bytes: int | None = None, expires_in_s: float | None = None
) -> Running:
    """A loaded model. `expires_in_s`: seconds until it is unloaded; None: never."""
    left = FOR_EVER if expires_in_s is None else timedelta(seconds=expires_in_s)
    entry: Running = {
        "name": info.id,
        "model": info.id,
        "digest": digest(info),
        "details": _details(info, card),
        "expires_at": (datetime.now(UTC) + left).isoformat().replace("+00:00", "Z"),
        "size_vram": 0,
    }
    if memory_bytes is not None:
        entry["size"] = memory_bytes
    if info.max_model_len is not None:
        entry["context_length"] = info.max_model_len
    return entry


def shown(info: ModelInfo, card: ModelCard) -> Shown:
    details = _details(info, card)
    description: Shown = {
        "modelfile": f"# {info.id}, served by Headrace\nFROM {info.id}\n",
        "parameters": "\n".join(f"{name:<30} {value}" for name, value in info.sampling.items()),
        "template": card.template or "",
        "details": details,
        "model_info": _model_info(info, card, details["family"]),
        "capabilities": sorted(card.capabilities),
        "modified_at": _time(info.created),
    }
    if card.license is not None:
        description["license"] = card.license
    return description


def _model_info(info: ModelInfo, card: ModelCard, family: str) -> dict[str, Any]:
    """Facts by GGUF's names. Clients look up the context length under the name of the architecture."""
    general: dict[str, Any] = {"general.architecture": family, "general.basename": info.id}
    if card.num_parameters is not None:
        general["general.parameter_count"] = card.num_parameters
    if info.max_model_len is not None:
        general[f"{family}.context_length"] = info.max_model_len
    return general | {f"{family}.{name}": value for name, value in card.shape.items()}


def _details(info: ModelInfo, card: ModelCard) -> Details:
    family = card.architecture or info.owned_by
    size = "" if card.num_parameters is None else _parameter_size(card.num_parameters)
    return {
        "parent_model": "",
        "format": card.format or "",
        "family": family,
        "families": [family],
        "parameter_size": size,
        "quantization_level": card.quantization or "",
    }


def _parameter_size(count: int) -> str:
    return f"{count / 1e9:.1f}B" if count >= 1e9 else f"{count / 1e6:.2f}M"


def digest(info: ModelInfo) -> str:
    """64 hexadecimal digits, of which clients show the first."""
    text = "\0".join((info.owned_by, info.id, str(info.created)))
    return hashlib.sha256(text.encode()).hexdigest()


def _time(seconds: int) -> str:
    moment = datetime.fromtimestamp(min(max(0, seconds), LATEST_SECOND), UTC)
    return moment.isoformat().replace("+00:00", "Z")
