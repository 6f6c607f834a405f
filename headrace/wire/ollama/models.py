"""The JSON of Ollama's lists and descriptions of models, and the bodies that name one: also those of
/api/create and /api/copy, which make models of served ones, with a system message, first messages and
parameters. What is stored of a created model is the body.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from headrace.errors import BadRequest
from headrace.finite import size_up_to
from headrace.types import Message, ModelCard, ModelInfo
from headrace.wire.limits import MAX_MESSAGES, at_most
from headrace.wire.models import rfc3339
from headrace.wire.ollama.request import NO_OPTIONS, History, OllamaMessage, Options, sampling
from headrace.wire.parameters import RequestBody, carried

LATEST = ":latest"  # the tag that Ollama adds to names; ours have none
FOR_EVER_S = 106_751 * 86_400  # as Ollama writes it: the longest duration of its language

NAME = re.compile(r"(?!.*\.\.)\w[\w./-]{0,127}(:[\w.-]{1,80})?", re.ASCII)
MAX_LICENSES = 64
MAX_CREATED = 1_000_000  # characters of what describes a created model, as JSON


class NameBody(RequestBody):
    """A body that names a model, also by the older member `name`."""

    model: str | None = None
    name: str | None = Field(None, description="The older name of `model`.")

    @property
    def id(self) -> str:
        """Raises BadRequest."""
        name = self.model or self.name
        if not name:
            raise BadRequest.at("model", "Field required")
        return name


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
        "modified_at": rfc3339(info.created),
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
    left_s = FOR_EVER_S if expires_in_s is None else expires_in_s
    entry: Running = {
        "name": info.id,
        "model": info.id,
        "digest": digest(info),
        "details": _details(info, card),
        "expires_at": rfc3339(time.time() + left_s),
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
        "modified_at": rfc3339(info.created),
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
    """A model's id as Ollama's clients show it, which print its first digits: 64 in hexadecimal."""
    text = "\0".join((info.owned_by, info.id, str(info.created)))
    return hashlib.sha256(text.encode()).hexdigest()


class CopyBody(RequestBody):
    source: str
    destination: str


class CreateBody(NameBody):
    """The body of POST /api/create. `model` becomes a name for what `from` serves."""

    from_: str | None = Field(None, alias="from", description="A served model, or one that was created.")
    system: str | None = None
    parameters: Options | None = Field(None, description="By the names of `options`.")
    messages: Annotated[list[OllamaMessage], at_most(MAX_MESSAGES)] | None = None
    license: str | Annotated[list[str], at_most(MAX_LICENSES)] | None = None
    stream: bool | None = True

    @property
    def base(self) -> str:
        """The model that it is made of. Raises BadRequest."""
        if not self.from_:
            raise BadRequest.at(
                "from", "a model is needed: nothing is made of files here, only of models that are served"
            )
        return self.from_

    @property
    def license_text(self) -> str | None:
        return "\n\n".join(self.license) if isinstance(self.license, list) else self.license

    def opening(self) -> tuple[Message, ...]:
        """The messages that each conversation begins with. Raises BadRequest."""
        history = History()
        return tuple(history.message(index, one) for index, one in enumerate(self.messages or ()))

    def sampling(self) -> dict[str, object]:
        """The members of Sampling that the created model sets."""
        unset = asdict(sampling(NO_OPTIONS))
        return {
            name: value for name, value in asdict(sampling(self.parameters)).items() if value != unset[name]
        }

    def foreign(self) -> dict[str, Any]:
        """Parameters of other servers, unchanged."""
        return carried(self.parameters or NO_OPTIONS)

    def over(self, other: CreateBody) -> CreateBody:
        """This, made of what the other one is made of, with its members where this one has none."""
        own, others = _members(self), _members(other)
        merged = {
            **others,
            **own,
            "parameters": {**others.get("parameters", {}), **own.get("parameters", {})},
        }
        return CreateBody.model_validate({**merged, "from": other.base, "model": self.id})

    def stored(self) -> dict[str, Any]:
        """The body as it is stored. Raises BadRequest if it is too large."""
        members = {**_members(self), "from": self.base}
        if size_up_to(members, MAX_CREATED) > MAX_CREATED:
            raise BadRequest(
                f"system, parameters, messages and license have more than {MAX_CREATED} characters",
                param="body",
            )
        return members

    def modelfile(self) -> str:
        """The members as a Modelfile of Ollama's."""
        lines = [f"FROM {self.base}", *(f"PARAMETER {line}" for line in self.parameter_lines())]
        if self.system:
            lines.append(f'SYSTEM """{self.system}"""')
        lines += [f'MESSAGE {one.role} """{one.content or ""}"""' for one in self.messages or ()]
        return "\n".join(lines) + "\n"

    def parameter_lines(self) -> Iterator[str]:
        for name, value in _members(self).get("parameters", {}).items():
            for one in value if isinstance(value, list) else [value]:
                yield f"{name:<30} {one}"


STORED = ("system", "parameters", "messages", "license")


def _members(body: CreateBody) -> dict[str, Any]:
    """The members that describe the model, as far as they are set."""
    written = body.model_dump(mode="json", by_alias=True, exclude_none=True, include=set(STORED))
    return {name: value for name, value in written.items() if value not in ("", [], {})}


def checked_name(name: str, param: str) -> str:
    """A name for a model, without `:latest`. Raises BadRequest."""
    if not NAME.fullmatch(name):
        raise BadRequest.at(param, f"{name[:100]!r} is no name: letters, digits and . _ - / : are")
    return name.removesuffix(LATEST)


def shown_created(shown: Shown, body: CreateBody) -> Shown:
    """The description of a model with what was created of it."""
    described: Shown = {
        **shown,
        "modelfile": body.modelfile(),
        "details": {**shown["details"], "parent_model": body.base},
    }
    if body.parameters is not None:
        described["parameters"] = "\n".join(body.parameter_lines())
    if body.system:
        described["system"] = body.system
    if body.messages:
        described["messages"] = [one.model_dump(exclude_none=True) for one in body.messages]
    if body.license_text:
        described["license"] = body.license_text
    return described
