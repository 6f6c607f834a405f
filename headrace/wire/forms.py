"""The form that a request prescribes for its answers, under all the names that callers have for it."""

from __future__ import annotations

from typing import Literal

from pydantic_core import from_json

from headrace.errors import BadRequest
from headrace.text.structured.narrowing import ALL
from headrace.types import Format
from headrace.wire.generation import GenerationBody, ResponseFormat, StructuredOutputs, TypedGrammar


def output_format(body: GenerationBody) -> Format | None:
    """What the answer must look like, if the request says so. Raises BadRequest when it says so twice."""
    given = [
        format for format in (_response_format(body.response_format), *_guided(body)) if format is not None
    ]
    if len(given) > 1:
        raise BadRequest(f"{given[1].param} and {given[0].param} exclude each other", param=given[1].param)
    return given[0] if given else None


def narrowings(body: GenerationBody) -> frozenset[str] | None:
    """The narrowings of schemas that the request allows; None: all. Raises BadRequest."""
    allowed = None if body.schema_narrowing is None else frozenset(body.schema_narrowing)
    unknown = sorted((allowed or ALL) - ALL)
    if unknown:
        known = ", ".join(sorted(ALL))
        raise BadRequest(
            f"schema_narrowing: {unknown[0][:50]!r} is none of {known}", param="schema_narrowing"
        )
    if body.structured_outputs is not None and body.structured_outputs.disable_additional_properties is False:
        return (ALL if allowed is None else allowed) - {"closed_objects"}
    return allowed


def _response_format(body: ResponseFormat | None) -> Format | None:
    """A schema stands in json_schema, or, as some servers have it, beside the type."""
    if body is None or body.type == "text":
        return None
    param = "response_format.json_schema"
    if body.json_schema is None:
        if body.schema_ is not None:
            return Format("json_schema", body.schema_, "response_format.schema", body.name, body.description)
        if body.type == "json_object":
            return Format("json_object")
        raise BadRequest(f"{param} is needed with type json_schema", param=param)
    if body.schema_ is not None:
        raise BadRequest(f"{param} and response_format.schema exclude each other", param=param)
    told = body.json_schema
    if told.schema_ is not None:
        return Format("json_schema", told.schema_, f"{param}.schema", told.name, told.description)
    raise BadRequest(f"{param}.schema is needed with type json_schema", param=f"{param}.schema")


def _guided(body: GenerationBody) -> list[Format | None]:
    choice = body.guided_choice
    return [
        *(_schema(getattr(body, name), name) for name in ("guided_json", "json_schema")),
        *(_pattern("regex", getattr(body, name), name) for name in ("guided_regex", "regex")),
        None if choice is None else Format("choice", tuple(choice), "guided_choice"),
        *(_pattern("grammar", getattr(body, name), name) for name in GRAMMARS),
        _grammar(body.grammar),
        *_structured(body.structured_outputs),
    ]


def _structured(asked: StructuredOutputs | None) -> list[Format | None]:
    if asked is None:
        return []
    at = "structured_outputs"
    return [
        _schema(asked.json_, f"{at}.json"),
        None if asked.regex is None else Format("regex", asked.regex, f"{at}.regex"),
        None if asked.choice is None else Format("choice", tuple(asked.choice), f"{at}.choice"),
        None if asked.grammar is None else Format("grammar", asked.grammar, f"{at}.grammar"),
        Format("json_object", param=f"{at}.json_object") if asked.json_object else None,
    ]


GRAMMARS = ("guided_grammar", "ebnf", "grammar_string")


def _schema(value: object, param: str) -> Format | None:
    if isinstance(value, str):
        try:
            value = from_json(value, allow_inf_nan=False)
        except ValueError as exc:
            raise BadRequest(f"{param} is no JSON: {exc}", param=param) from exc
    return None if value is None else Format("json_schema", value, param)


def _pattern(kind: Literal["regex", "grammar"], value: str | None, param: str) -> Format | None:
    """An empty one, which clients of text-generation-webui send, is none."""
    return Format(kind, value, param) if value or (value == "" and param.startswith("guided_")) else None


def _grammar(asked: str | TypedGrammar | None) -> Format | None:
    if not isinstance(asked, TypedGrammar):
        return _pattern("grammar", asked, "grammar")
    param = "grammar.value"
    if asked.type == "json_object":
        return Format("json_object", param="grammar")
    if asked.value is None or (asked.type == "regex" and not isinstance(asked.value, str)):
        raise BadRequest(f"{param} is needed with type {asked.type}", param=param)
    return (
        _pattern("regex", str(asked.value), param) if asked.type == "regex" else _schema(asked.value, param)
    )
