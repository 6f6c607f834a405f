"""The bodies of POST /api/create and /api/copy: models that are made of served ones, with a system message,
first messages and parameters. What is stored is the body.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any

from pydantic import Field

from headrace.errors import BadRequest
from headrace.types import Message
from headrace.wire.limits import MAX_MESSAGES, at_most
from headrace.wire.ollama.messages import History, OllamaMessage
from headrace.wire.ollama.models import LATEST, NameBody, Shown
from headrace.wire.ollama.request import NO_OPTIONS, Options, sampling
from headrace.wire.parameters import RequestBody, carried

NAME = re.compile(r"(?!.*\.\.)\w[\w./-]{0,127}(:[\w.-]{1,80})?", re.ASCII)
MAX_LICENSES = 64
MAX_CREATED = 1_000_000  # characters of system message, messages and licence together


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
        found = {**_members(self), "from": self.base}
        if sum(map(len, _texts(found))) > MAX_CREATED:
            raise BadRequest(
                f"system, messages and license have more than {MAX_CREATED} characters", param="body"
            )
        return found

    def modelfile(self) -> str:
        """The same as Ollama's file."""
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


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _texts(one)


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
