"""No invalid text comes of any schema that compiles; what does not compile is refused where the fault is."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import validators
from numpy.typing import NDArray

from headrace.errors import BadRequest
from headrace.models.catalog import Model
from headrace.text.structured.formats import KNOWN_FORMATS
from headrace.text.structured.grammar import Constraint, Grammars
from headrace.text.structured.keywords import NARROWINGS
from headrace.text.structured.schema import json_grammar
from headrace.text.structured.solver import REFUSED as REFUSED_KEYWORDS
from headrace.text.tokenizer import Tokenizer
from headrace.types import Format
from tests.counting import num_calls
from tests.text.structured.schemas import DRAFT, Case, cases

PARAM = "response_format.json_schema.schema"
CASES = cases()
ACCEPTED = [case for case in CASES if case.refused is None]
REFUSED = [case for case in CASES if case.refused is not None]
MAX_CALLS = 20_000_000  # of functions, before a schema is refused
WALKS, LONG, LIMIT = 4, 40, 250  # texts of each schema; tokens after which to close; tokens at most


@pytest.fixture(scope="module")
def grammars(tokenizer: Tokenizer, default_model: Model) -> Grammars:
    table = [tokenizer.token_bytes(token) for token in range(tokenizer.vocabulary)]
    return Grammars(table, tokenizer.special, default_model.eos_token_ids, tokenizer.encode)


class Walker:
    """Chooses at random among the allowed tokens: any, or one that structures, or one that closes."""

    def __init__(self, tokenizer: Tokenizer, ends: Sequence[int]) -> None:
        self._tokenizer, self._ends = tokenizer, ends
        table = [tokenizer.token_bytes(token) for token in range(tokenizer.vocabulary)]
        self._structural = np.array([bool(set(raw) & set(b'"{}[],:.-0123456789')) for raw in table])
        closing = [b'"', b"]", b"}", b'"}', b'"]', b"null", b"0", b"1"]
        self._closing = np.array([raw in closing for raw in table])
        self._mask = np.zeros((tokenizer.vocabulary + 31) // 32, np.int32)

    def text(self, constraint: Constraint, seed: int) -> str | None:
        """A text that ended; None: it got too long."""
        self._random = np.random.default_rng(seed)
        tokens: list[int] = []
        while len(tokens) < LIMIT:
            constraint.fill(self._mask)
            allowed = np.unpackbits(self._mask.view(np.uint8), bitorder="little").astype(bool)
            assert allowed.any()
            may_end = bool(allowed[list(self._ends)].any())
            allowed[list(self._ends)] = False
            if may_end and (not allowed.any() or len(tokens) > LONG or self._random.random() < 0.3):
                return b"".join(map(self._tokenizer.token_bytes, tokens)).decode()
            tokens.append(self._choice(allowed, len(tokens)))
            constraint.accept(tokens[-1])
        return None

    def _choice(self, allowed: NDArray[np.bool_], length: int) -> int:
        preferred = self._closing if length > LONG else self._structural
        if length > LONG or self._random.random() < 0.5:
            allowed = allowed & preferred if (allowed & preferred).any() else allowed
        return int(self._random.choice(np.flatnonzero(allowed)))


@pytest.fixture(scope="module")
def walker(tokenizer: Tokenizer, default_model: Model) -> Walker:
    return Walker(tokenizer, default_model.eos_token_ids)


def validator_of(schema: Any) -> Any:
    kind = validators.validator_for(schema, default=validators.Draft202012Validator)
    return kind(schema, format_checker=kind.FORMAT_CHECKER)


@pytest.mark.filterwarnings("ignore:Possible :FutureWarning")  # of the validator's regular expressions
@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: case.name)
def test_no_invalid_text_comes_of_a_schema(case: Case, grammars: Grammars, walker: Walker) -> None:
    validator = validator_of(case.schema)
    for seed in range(WALKS):
        text = walker.text(grammars.compile(Format("json_schema", case.schema, PARAM)), seed)
        if text is not None:
            errors = [error.message for error in validator.iter_errors(json.loads(text))]
            assert not errors, text


def refusal(schema: Any) -> BadRequest:
    """The error for a schema, which takes at most MAX_CALLS to find."""
    caught: list[BadRequest] = []

    def work() -> None:
        with pytest.raises(BadRequest) as raised:
            json_grammar(schema, PARAM)
        caught.append(raised.value)

    assert num_calls(work) < MAX_CALLS
    return caught[0]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_refusal_names_the_path_and_is_quick(case: Case) -> None:
    error = refusal(case.schema)
    assert error.param == ".".join([PARAM, case.refused] if case.refused else [PARAM])
    assert error.message.startswith(error.param)
    assert len(error.message) < 700


TUPLE = {"type": "array", "items": [{"type": "string"}, {"const": 2}], "additionalItems": {"type": "null"}}
PRICE = {"type": "number", "minimum": 0, "exclusiveMinimum": True}


@pytest.mark.parametrize(
    ("draft", "schema"),
    [
        pytest.param(7, TUPLE, id="a list of items"),
        pytest.param(7, {"type": "object", "properties": {"point": TUPLE}}, id="a list of items below"),
        pytest.param(4, PRICE, id="a limit that is excluded"),
        pytest.param(4, {"type": "integer", "maximum": 9, "exclusiveMaximum": False}, id="one that is not"),
        pytest.param(4, {"type": "array", "items": [PRICE, {}]}, id="both"),
    ],
)
def test_without_a_draft_what_only_older_ones_have_is_read_as_there(draft: int, schema: Any) -> None:
    named = {"$schema": DRAFT.format(draft), **schema}
    assert json_grammar(schema, PARAM) == json_grammar(named, PARAM)


@pytest.mark.parametrize("later", [{"prefixItems": [True]}, {"dependentRequired": {"a": ["b"]}}])
def test_keywords_of_two_drafts_are_refused_where_neither_has_both(later: dict[str, Any]) -> None:
    assert refusal({**TUPLE, **later}).param == f"{PARAM}.items"


def test_a_constant_is_enforced_beside_a_limit_of_a_draft_without_constants() -> None:
    assert refusal({"properties": {"a": PRICE, "b": {"const": 1}}}).code == "invalid_schema"


def _many(make: Callable[[int], Any]) -> list[Any]:
    return [make(number) for number in range(900)]


MANY: dict[str, Any] = {  # far more of something than any schema needs
    "expressions": {"type": "string", "allOf": _many(lambda n: {"pattern": f"a{n}"})},
    "expressions of names": {"propertyNames": {"allOf": _many(lambda n: {"pattern": f"a{n}"})}},
    "expressions of members": {"patternProperties": {f"^a{n}_": {"minLength": n} for n in range(101)}},
    "texts to avoid": {"type": "string", "allOf": _many(lambda n: {"not": {"pattern": f"^a{n}b*$"}})},
    "choices": {"allOf": _many(lambda n: {"anyOf": [{"required": [f"a{n}"]}, {"required": [f"b{n}"]}]})},
    "exclusive choices": {
        "allOf": _many(lambda n: {"oneOf": [{"required": [f"a{n}"]}, {"required": [f"b{n}"]}]})
    },
    "ways to avoid": {"allOf": _many(lambda n: {"not": {"required": [f"a{n}", f"b{n}"]}})},
    "dependent members": {"dependentRequired": {f"a{n}": [f"b{n}"] for n in range(900)}},
    "dependent schemas": {"dependentSchemas": {f"a{n}": {"required": [f"b{n}"]} for n in range(900)}},
    "dependencies": {"dependencies": {f"a{n}": [f"b{n}"] for n in range(900)}},
}


@pytest.mark.parametrize("name", MANY)
def test_too_much_of_anything_is_refused_soon(name: str) -> None:
    refusal(MANY[name])


def test_documented_examples_compile_and_what_is_refused_is_documented() -> None:
    text = (Path(__file__).parents[3] / "docs" / "structured-output.md").read_text(encoding="utf-8")
    examples = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL)]
    assert len(examples) == 2
    for example in examples:
        json_grammar(example["response_format"]["json_schema"]["schema"], PARAM)
    assert all(f"`{name}`" in text for name in (*KNOWN_FORMATS, *REFUSED_KEYWORDS))
    assert all(f"| `{name}` | {what} |" in text for name, what in NARROWINGS.items())


def test_how_many_compile(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(ACCEPTED) >= 240
    assert len(REFUSED) >= 60
    assert len({case.name for case in CASES}) == len(CASES)
    with capsys.disabled():
        print(
            f" [{len(ACCEPTED)} of {len(CASES)} schemas compile, {len(REFUSED)} are refused by name]", end=""
        )
