"""Validation: bytes become a model, and a validator's complaints become one error that names the member at
fault.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails, from_json

from headrace.errors import BadRequest
from headrace.offload import check_wanted
from headrace.wire.limits import SHOWN

Body = TypeVar("Body", bound=BaseModel)

ABSENT_MEMBER = ("missing", "value_error")  # types of complaints about members that the body may lack
MAX_COMPLAINTS = 50  # a list has one at most, but a union has some for each alternative
PLAIN = (int, str)  # values that have no members
CODES = {"missing": "missing_required_parameter", "json_invalid": "invalid_json", "json_type": "invalid_json"}


class RequestBody(BaseModel):
    """The base of all request models. It is strict: a number in quotes is an error. Unknown members are kept,
    and later named as ignored (parameters.py).
    """

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, allow_inf_nan=False)


def parse(kind: type[Body], raw: bytes) -> Body:
    """Validate a body. Raises BadRequest, whose `param` is a dotted path into the body, or `body` if that is
    no JSON object.
    """
    try:
        return kind.model_validate_json(raw)
    except ValidationError as exc:
        complaints = exc.errors(include_url=False, include_context=False, include_input=False)
        raise _bad_request(complaints[:MAX_COMPLAINTS], raw) from exc


@dataclass(frozen=True, slots=True)
class Member:
    """A member that a body has. `bare`: its path without indices; `owner`: the object that it is a member of;
    `is_declared`: whether the owner's model has it.
    """

    path: str
    bare: str
    value: object
    owner: BaseModel
    is_declared: bool


def members(value: object, named: Set[str], path: str = "", bare: str = "") -> Iterator[Member]:
    """The members that no model declares, and those whose bare path is in `named`, at any depth. A member
    that is null counts as absent.
    """
    if isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, PLAIN):
                continue  # a shortcut for lists of very many tokens
            check_wanted()
            yield from members(item, named, f"{path}{index}.", bare)
    elif isinstance(value, BaseModel):
        undeclared, fields = value.model_extra or {}, type(value).model_fields
        for field, member in value:
            if member is None:
                continue
            name = field if field in undeclared else fields[field].alias or field
            if name in undeclared or bare + name in named:
                yield Member(path + name, bare + name, member, value, name not in undeclared)
            if name not in undeclared:
                yield from members(member, named, f"{path}{name}.", f"{bare}{name}.")


def _bad_request(complaints: list[ErrorDetails], raw: bytes) -> BadRequest:
    body = _loads(raw)
    located = [(_path(complaint, body), complaint) for complaint in complaints]
    # the alternative of a union that matched deepest is taken for the intended one
    path, deepest = max(located, key=lambda pair: len(pair[0]))
    param = ".".join(step[:SHOWN] for step in path) or "body"
    same = [complaint["msg"] for where, complaint in located if where == path]
    error = BadRequest(f"{param}: {'; or '.join(dict.fromkeys(same))}", param=param)
    error.code = CODES.get(deepest["type"], BadRequest.code)
    return error


def _path(complaint: ErrorDetails, body: Any) -> list[str]:
    """The complaint's location as steps that exist in the body, without the validator's tags of unions."""
    path: list[str] = []
    for step in complaint["loc"]:
        inner = _step(body, step)
        if inner is not _ABSENT:
            body = inner
        elif complaint["type"] not in ABSENT_MEMBER or step != complaint["loc"][-1]:
            continue
        path.append(str(step))
    return path


_ABSENT = object()


def _step(body: Any, step: int | str) -> Any:
    if isinstance(body, list) and isinstance(step, int) and step < len(body):
        return body[step]
    return body.get(step, _ABSENT) if isinstance(body, dict) else _ABSENT


def _loads(raw: bytes) -> Any:
    try:
        return from_json(raw)
    except ValueError:
        return None
