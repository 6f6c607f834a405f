"""The neutral request, and the form that it prescribes for its answers under each of the names that clients
use for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Literal

from pydantic_core import from_json

from headrace.errors import BadRequest
from headrace.text.structured.keywords import ALL_NARROWINGS, ANNOTATIONS, RESTRICTIONS, invalid
from headrace.types import Conversation, Format, GenerateRequest, Sampling, Texts
from headrace.wire.generation import GenerationBody, ResponseFormat, StructuredOutputs, TypedGrammar
from headrace.wire.parameters import advice_in, carried

FLEX = 10  # the engine's priority of a batch
# members of other servers' `response_format` that would prescribe a form
FORMS = RESTRICTIONS | {"grammar", "regex", "schemas", "structures", "value"}


def request_of(
    body: GenerationBody, prompt: Conversation | Texts, sampling: Sampling, n: int, format: Format | None
) -> GenerateRequest:
    """The neutral request of a body, with the members that all endpoints share. Raises BadRequest."""
    priority = body.priority or 0  # the lower number runs first
    if getattr(body, "service_tier", None) == "flex":  # OpenAI's word for work that can wait
        priority = max(priority, FLEX)
    has_no_schemas = body.schema_narrowing is None and body.structured_outputs is None
    request = GenerateRequest(
        body.model, prompt, sampling, n, format, priority, body.timeout, body.user,
        foreign=carried(body) if body.model_extra else {}, advice=advice_in(body),
        narrowings=None if has_no_schemas else narrowings(body),
    )  # fmt: skip
    return request if body._steered is None else body._steered.applied(request)


def output_format(body: GenerationBody) -> Format | None:
    """The form that the answer must have, if any. Raises BadRequest when two members prescribe one."""
    formats = [
        format
        for name, read in READERS.items()
        if (value := getattr(body, name)) is not None
        for format in read(value, name)
    ]
    if len(formats) > 1:
        first, second = formats[0].param, formats[1].param
        raise BadRequest(f"{second} and {first} exclude each other", param=second)
    return formats[0] if formats else None


def narrowings(body: GenerationBody) -> frozenset[str] | None:
    """The narrowings of schemas that the request allows; None: all. Raises BadRequest."""
    allowed = None if body.schema_narrowing is None else frozenset(body.schema_narrowing)
    unknown = sorted((allowed or ALL_NARROWINGS) - ALL_NARROWINGS)
    if unknown:
        known = ", ".join(sorted(ALL_NARROWINGS))
        raise BadRequest.at("schema_narrowing", f"{unknown[0][:50]!r} is none of {known}")
    if body.structured_outputs is not None and body.structured_outputs.disable_additional_properties is False:
        return (ALL_NARROWINGS if allowed is None else allowed) - {"closed_objects"}
    return allowed


def schema_form(
    schema: object,
    param: str,
    name: str | None = None,
    description: str | None = None,
    strict: bool | None = None,
) -> Format:
    """The form that a schema prescribes. Raises InvalidSchema for an object that is none: with members, of
    which no one is a keyword, as when the schema is in one of them.
    """
    if isinstance(schema, dict) and not RESTRICTIONS & schema.keys() and schema.keys() - ANNOTATIONS:
        member = next(iter(schema.keys() - ANNOTATIONS))
        raise invalid(param, f"no schema: {member[:50]!r} is no keyword of JSON Schema, and it has no other")
    return Format("json_schema", schema, param, name, description, strict)


def _response_format(body: ResponseFormat, _: str) -> Iterator[Format]:
    """Read `response_format`. A schema is in json_schema or, as some servers have it, beside the type."""
    param, wrapper = "response_format.json_schema", body.json_schema
    _check_form(body)
    if body.type == "text":
        return
    if wrapper is None:
        if body.schema_ is not None and (body.schema_ != {} or body.type == "json_schema"):
            yield schema_form(
                body.schema_, "response_format.schema", body.name, body.description, body.strict
            )
        elif body.type == "json_object":
            yield Format("json_object")
        else:
            raise BadRequest(f"{param} is needed with type json_schema", param=param)
        return
    if body.schema_ is not None:
        raise BadRequest(f"{param} and response_format.schema exclude each other", param=param)
    param = f"{param}.schema"
    if wrapper.schema_ is None:
        raise BadRequest(f"{param} is needed with type json_schema", param=param)
    yield schema_form(wrapper.schema_, param, wrapper.name, wrapper.description, wrapper.strict)


def _check_form(body: ResponseFormat) -> None:
    """Raise BadRequest for members that prescribe a form which the type denies, or which is not read."""
    misplaced = sorted(FORMS & (body.model_extra or {}).keys())
    if body.type == "text":
        misplaced += [
            name
            for name, value in (("json_schema", body.json_schema), ("schema", body.schema_))
            if value is not None
        ]
    if misplaced:
        param = f"response_format.{misplaced[0]}"
        raise BadRequest.at(
            param, 'not with this type: {"type": "json_schema", "json_schema": {"schema": …}} has a schema'
        )


def _schema(value: object, param: str) -> Iterator[Format]:
    """A schema, also as JSON text. The text `null` is none."""
    if isinstance(value, str):
        try:
            value = from_json(value, allow_inf_nan=False)
        except ValueError as exc:
            raise BadRequest(f"{param} is no JSON: {exc}", param=param) from exc
        if value is None:
            raise invalid(param, "null is no schema")
    if value is not None:
        yield schema_form(value, param)


def _pattern(kind: Literal["regex", "grammar"], value: str, param: str) -> Iterator[Format]:
    """A regular expression or a grammar. Clients of text-generation-webui send empty ones, which are none."""
    if value or param.startswith("guided_") or param.endswith(".value"):
        yield Format(kind, value, param)


def _choice(choices: list[str], param: str) -> Iterator[Format]:
    yield Format("choice", tuple(choices), param)


def _grammar(value: str | TypedGrammar, param: str) -> Iterator[Format]:
    """A grammar, or TGI's `{type, value}`."""
    if isinstance(value, str):
        yield from _pattern("grammar", value, param)
    elif value.type == "json_object":
        yield Format("json_object", param=param)
    elif value.value is None or (value.type == "regex" and not isinstance(value.value, str)):
        raise BadRequest(f"{param}.value is needed with type {value.type}", param=f"{param}.value")
    elif value.type == "regex":
        yield from _pattern("regex", str(value.value), f"{param}.value")
    else:
        yield from _schema(value.value, f"{param}.value")


def _structured_outputs(body: StructuredOutputs, param: str) -> Iterator[Format]:
    """Read vLLM's `structured_outputs`. Raises BadRequest if none of its members prescribes a form."""
    forms = list(_structured_forms(body, param))
    # a tag is refused with a reason of its own
    if not forms and body.json_object is None and (body.model_extra or {}).get("structural_tag") is None:
        raise BadRequest.at(param, "one of json, regex, choice, grammar and json_object is needed")
    yield from forms


def _structured_forms(body: StructuredOutputs, param: str) -> Iterator[Format]:
    yield from _schema(body.json_, f"{param}.json")
    if body.regex is not None:
        yield Format("regex", body.regex, f"{param}.regex")
    if body.choice is not None:
        yield Format("choice", tuple(body.choice), f"{param}.choice")
    if body.grammar is not None:
        yield Format("grammar", body.grammar, f"{param}.grammar")
    if body.json_object:
        yield Format("json_object", param=f"{param}.json_object")


# member of the body → the function that reads its value; the second argument is the member's name
READERS: Mapping[str, Callable[[Any, str], Iterator[Format]]] = {
    "response_format": _response_format,
    "guided_json": _schema,
    "json_schema": _schema,
    "guided_regex": partial(_pattern, "regex"),
    "regex": partial(_pattern, "regex"),
    "guided_choice": _choice,
    "guided_grammar": partial(_pattern, "grammar"),
    "ebnf": partial(_pattern, "grammar"),
    "grammar_string": partial(_pattern, "grammar"),
    "grammar": _grammar,
    "structured_outputs": _structured_outputs,
}
