"""Bodies of requests: bytes become a model, a validator's complaints become one error that names the member
at fault, and tables of parameters say which features a body uses. Unions of models differ in their member
`type`.

Every member of a body that has an effect either needs a feature, which a backend may lack, or is handled by
Headrace itself. A member whose value changes nothing (`frequency_penalty: 0`, `tools: []`) needs no feature,
because clients send their defaults. docs/compatibility.md is generated from these tables and from the
features of the backends.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, Literal, TypeVar, get_args
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, ErrorDetails, core_schema, from_json

from headrace.errors import BadRequest
from headrace.features import Feature, Loss, Use, Uses
from headrace.offload import check_wanted
from headrace.wire.elsewhere import ADVICE, ELSEWHERE, NOTHING, Neutral, without_master
from headrace.wire.limits import SHOWN

Body = TypeVar("Body", bound=BaseModel)

ABSENT_MEMBER = ("missing", "value_error")  # types of complaints about members that the body may lack
MAX_COMPLAINTS = 50  # a list has one at most, but a union has some for each alternative
BRACKETED = ("steering", "probe")  # members whose paths in errors are written like a[0].b
PLAIN = (int, str)  # values that have no members
CODES = {"missing": "missing_required_parameter", "json_invalid": "invalid_json", "json_type": "invalid_json"}
MAX_NAMED, MAX_NAME = 20, 200  # members in the header, at most, and characters of each
IGNORED = "X-Headrace-Ignored"

# How every backend treats a member that needs no feature. ours: Headrace handles it. sent: it is part of
# every request. ignored, dropped, refused: as Loss, in headrace/features.py.
Everywhere = Literal["ours", "sent", "ignored", "dropped", "refused"]


class RequestBody(BaseModel):
    """The base of all request models. It is strict: a number in quotes is an error. Unknown members are kept,
    and later named as ignored.
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
class Parameter:
    """A member of a body. Tables map its dotted path, without indices of lists, to this.

    `asks`: the feature that it needs, or how every backend treats it. `note`: for the documentation.
    `is_neutral`: whether a value changes nothing. `is_redundant`: whether the object that has the member
    means the same without it. `loss`: what happens where the feature is missing, if not what the feature
    says.

    From these follow `feature`, and `loss_where_uncarried`: what happens to the member at a backend without
    its feature; None: it has an effect everywhere.
    """

    asks: Feature | Everywhere
    note: str = ""
    is_neutral: Neutral = NOTHING
    is_redundant: Callable[[BaseModel], bool] | None = None
    loss: Loss | None = None
    feature: Feature | None = field(init=False)
    loss_where_uncarried: Loss | None = field(init=False)

    def __post_init__(self) -> None:
        # computed once, because every request looks at every row of a table
        feature = self.asks if isinstance(self.asks, Feature) else None
        if isinstance(self.asks, Feature):
            loss: Loss | None = self.loss or self.asks.loss
        else:
            loss = None if self.asks == "ours" or self.asks == "sent" else self.asks
        object.__setattr__(self, "feature", feature)
        object.__setattr__(self, "loss_where_uncarried", loss)


Table = Mapping[str, Parameter]


def needs(
    feature: Feature,
    note: str = "",
    is_neutral: Neutral = NOTHING,
    *,
    is_redundant: Callable[[BaseModel], bool] | None = None,
    loss: Loss | None = None,
) -> Parameter:
    """A member that needs a feature of the backend."""
    return Parameter(feature, note, is_neutral, is_redundant, loss)


def ours(note: str = "") -> Parameter:
    """A member that Headrace handles itself."""
    return Parameter("ours", note)


def sent(note: str = "") -> Parameter:
    """A member that is part of every request, or that only contains others."""
    return Parameter("sent", note)


def ignored(note: str, is_neutral: Neutral = NOTHING) -> Parameter:
    return Parameter("ignored", note, is_neutral)


def refused(note: str, is_neutral: Neutral) -> Parameter:
    return Parameter("refused", note, is_neutral)


def advice(note: str, is_neutral: Neutral = NOTHING) -> Parameter:
    """A member about a provider's bookkeeping, speed or price. Local models have no use for it."""
    return Parameter(Feature.ADVICE, note, is_neutral)


def foreign(note: str, is_neutral: Neutral = NOTHING) -> Parameter:
    """A member that only Anthropic's own API has a use for."""
    return Parameter(Feature.ANTHROPIC_ADVICE, note, is_neutral)


def of_server_tools(note: str, is_neutral: Neutral = NOTHING) -> Parameter:
    """A member about tools that Anthropic itself runs, which are dropped."""
    return Parameter(Feature.SERVER_TOOLS, note, is_neutral)


def uses_of(body: RequestBody, table: Table, *, strict: bool = False, more: Iterable[Use] = ()) -> Uses:
    """The features that a body uses, and its members without effect, found in one walk. `more`: uses that no
    single member shows.
    """
    return Uses((*_uses(body, table), *more), strict)


def _uses(value: object, table: Table, path: str = "", bare: str = "") -> Iterator[Use]:
    """The uses that members at any depth show. `path`: of the value, with a dot; `bare`: without indices. A
    member that is null counts as absent; the defaults of absent ones change nothing.
    """
    if isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, PLAIN):
                continue  # a shortcut for lists of very many tokens
            if index:
                check_wanted()
            yield from _uses(item, table, f"{path}{index}.", bare)
    if not isinstance(value, BaseModel):
        return
    undeclared, fields, is_set = value.model_extra or {}, type(value).model_fields, value.model_fields_set
    for key, member in value:
        if member is None or key not in is_set:
            continue
        name = key if key in undeclared else fields[key].alias or key
        known = table.get(bare + name)
        if known is None:
            if name in undeclared:
                yield Use(path + name, None, "unknown")
        elif (
            known.loss_where_uncarried is not None
            and (known.is_neutral is NOTHING or not known.is_neutral(member))
            and (known.is_redundant is None or not known.is_redundant(value))
        ):
            yield Use(path + name, known.feature, known.loss_where_uncarried, known.note)
        if name not in undeclared:
            yield from _uses(member, table, f"{path}{name}.", f"{bare}{name}.")


def carried(body: BaseModel) -> dict[str, Any]:
    """The members of a body that are sent, unchanged, to a backend that knows them: those of ELSEWHERE that
    are not switched off.
    """
    members: dict[str, Any] = {}
    for name, value in (body.model_extra or {}).items():
        known = ELSEWHERE.get(name)
        is_on = known is not None and value is not None and not known.is_off(value)
        if is_on and not without_master(name)(body):
            members[name] = value
    return members


def advice_in(body: BaseModel) -> dict[str, Any]:
    """The members of ADVICE that a body has, unchanged."""
    return {name: value for name in ADVICE if (value := getattr(body, name, None)) is not None}


def with_named(headers: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    """The headers with these names added to X-Headrace-Ignored."""
    # a header is ASCII: other characters are percent-encoded
    entries = [headers.get(IGNORED, ""), *(quote(name[:MAX_NAME], safe="[]:") for name in names[:MAX_NAMED])]
    line = ", ".join(filter(None, entries))[:1024]
    return {**headers, IGNORED: line} if line else dict(headers)


def message_of(problem: str) -> str:
    """A validator's message, without what pydantic puts before the ones that we write."""
    return problem.removeprefix("Value error, ")


def _bad_request(complaints: list[ErrorDetails], raw: bytes) -> BadRequest:
    body = _loads(raw)
    located = [(_path(complaint, body), complaint) for complaint in complaints]
    # the alternative of a union that matched deepest is taken for the intended one
    path, deepest = max(located, key=lambda pair: len(pair[0]))
    param = _written(path) or "body"
    same = [message_of(complaint["msg"]) for where, complaint in located if where == path]
    return BadRequest.at(param, "; or ".join(dict.fromkeys(same)), code=CODES.get(deepest["type"]))


def _written(path: list[str]) -> str:
    """A path as errors name it: with dots, in steering and probes with brackets around indices."""
    steps = [step[:SHOWN] for step in path]
    if not steps or steps[0] not in BRACKETED:
        return ".".join(steps)
    return "".join(f"[{step}]" if step.isdecimal() else f".{step}" for step in steps)[1:]


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


class ByType:
    """The annotation of such a union. Which types a model is for is written in its own annotation of `type`.
    A model whose `type` is any string, or a dict, is for all other types, or for those in `others`.

    `error` and `message` are those of a value with another type. `untyped` returns the name of the model for
    an object without a type.
    """

    def __init__(
        self,
        error: str,
        message: str,
        *,
        others: Container[str] | None = None,
        untyped: Callable[[dict[str, Any]], str | None] = lambda _: None,
    ) -> None:
        self._error, self._message, self._others, self._untyped = error, message, others, untyped

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        kinds = {kind.__name__: kind for kind in get_args(source)}
        choices = {name: handler.generate_schema(kind) for name, kind in kinds.items()}
        # read later, because models that contain each other are incomplete yet
        names = cache(partial(_names_by_type, kinds))
        return core_schema.tagged_union_schema(
            choices,
            lambda value: self._choose(value, names()),
            custom_error_type=self._error,
            custom_error_message=self._message,
        )

    def _choose(self, value: Any, names: dict[str | None, str]) -> str | None:
        """The name of the pydantic model that validates a value, by its `type`; None: there is none."""
        type = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
        if type is None and isinstance(value, dict):
            return self._untyped(value)
        if not isinstance(type, str):
            return None
        is_other = self._others is None or type in self._others
        return names.get(type, names.get(None) if is_other else None)


def _names_by_type(kinds: dict[str, Any]) -> dict[str | None, str]:
    """The names of models by the types that they are for; None stands for other types."""
    names: dict[str | None, str] = {}
    for name, kind in kinds.items():
        is_model = isinstance(kind, type) and issubclass(kind, BaseModel)
        types: list[str | None] = [*_literals(kind.model_fields["type"].annotation)] if is_model else []
        names |= dict.fromkeys(types or [None], name)
    return names


def _literals(annotation: Any) -> Iterator[str]:
    for argument in get_args(annotation):
        yield from (argument,) if isinstance(argument, str) else _literals(argument)
