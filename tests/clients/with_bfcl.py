"""200 functions of the Berkeley Function Calling Leaderboard, each called by name: the arguments that come
validate against the function's own schema, every time.

The only argument is a folder with the package bfcl_eval; its data are read, its code is not run.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
from jsonschema import Draft202012Validator
from turns import BASE_URL, KEY, MODEL, run, turn

SHARES = {"simple_python": 90, "live_simple": 40, "simple_java": 45, "simple_javascript": 25}
TYPES = {  # as the data call them, in four languages' words
    "dict": "object", "hashmap": "object", "object": "object",
    "array": "array", "arraylist": "array", "list": "array", "tuple": "array",
    "float": "number", "double": "number", "number": "number",
    "integer": "integer", "long": "integer",
    "boolean": "boolean", "string": "string", "char": "string",
    "any": ["string", "number", "boolean"], "": "string",
}  # fmt: skip
LIMITS = {
    "string": ("maxLength", 200),
    "array": ("maxItems", 20),
    "object": ("maxProperties", 20),
}  # a small model may talk without end
CONCURRENT = 12

client = openai.OpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0, timeout=300)


@dataclass(frozen=True, slots=True)
class Function:
    question: str
    name: str
    description: str
    schema: dict[str, Any]


def functions(category: str, count: int) -> list[Function]:
    """The first `count` functions of distinct names."""
    path = Path(sys.argv[1], "bfcl_eval", "data", f"BFCL_v4_{category}.json")
    found: dict[str, Function] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        for tool in entry["function"]:
            function = _function(tool, entry["question"][0][-1]["content"])
            found.setdefault(function.name, function)
    return list(found.values())[:count]


def _function(tool: dict[str, Any], question: str) -> Function:
    name = tool["name"].replace(".", "_")[-64:]
    return Function(question, name, tool["description"], schema_of(tool["parameters"]))


def schema_of(described: dict[str, Any]) -> dict[str, Any]:
    """JSON Schema out of the data's own notation. Arguments that are not named are not allowed."""
    kind = TYPES[described.get("type", "any").lower()]
    copied = {
        key: described[key] for key in ("description", "enum", "required", "maximum") if key in described
    }
    schema = copied | {"type": kind} | {key: most for name, (key, most) in LIMITS.items() if name in kind}
    if kind == "array":
        schema["items"] = schema_of(described.get("items", {}))
        if "enum" in schema:  # of what is in the array
            schema["items"]["enum"] = schema.pop("enum")
    if "properties" in described:
        schema["properties"] = {key: schema_of(value) for key, value in described["properties"].items()}
    if kind == "object":
        schema["additionalProperties"] = (
            False if "properties" in described else {"type": "string", "maxLength": 50}
        )
    return schema


@dataclass(frozen=True, slots=True)
class Called:
    function: Function
    arguments: str
    reason: str
    tokens: int

    @property
    def problem(self) -> str | None:
        """Why the arguments are not what was asked for."""
        try:
            found = json.loads(self.arguments)
        except ValueError as exc:
            return f"not JSON: {exc}"
        return next((error.message for error in _validator(self.function).iter_errors(found)), None)


def _validator(function: Function) -> Draft202012Validator:
    Draft202012Validator.check_schema(function.schema)
    return Draft202012Validator(function.schema)


def call(function: Function) -> Called:
    described = {"name": function.name, "description": function.description, "parameters": function.schema}
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": function.question}],
        tools=[{"type": "function", "function": described}],
        tool_choice={"type": "function", "function": {"name": function.name}},
        temperature=0.3,
        seed=1,
        max_tokens=1000,
        frequency_penalty=0.5,  # a small model repeats itself without end in a long string
    )
    (choice,) = answer.choices
    (made,) = choice.message.tool_calls or ()
    assert made.function.name == function.name
    return Called(function, made.function.arguments, choice.finish_reason, answer.usage.completion_tokens)


def _wanted() -> Iterator[Function]:
    for category, count in SHARES.items():
        yield from functions(category, count)


@turn("200 named calls validate")
def validate() -> None:
    wanted = list(_wanted())
    assert len(wanted) == 200
    with ThreadPoolExecutor(CONCURRENT) as pool:
        called = list(pool.map(call, wanted))
    reasons = Counter(made.reason for made in called)
    tokens = [made.tokens for made in called]
    print(f"finished with {dict(reasons)}; tokens: {sum(tokens)}, at most {max(tokens)}")
    cut = [made for made in called if made.reason == "length"]
    failed = [made for made in called if made not in cut and made.problem]
    for made in failed:
        print(f"{made.function.name}: {made.problem}: {made.arguments[:300]!r}")
    assert not failed, f"{len(failed)} of {len(called)}"
    # Whether so small a model ends a long string depends on how the processor rounds.
    assert len(cut) <= len(called) // 50, f"{len(cut)} of {len(called)} ran on until the limit"


if __name__ == "__main__":
    run()
