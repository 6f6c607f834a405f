"""Tools on the real model, in each format that a chat template may mean: what is called always validates."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jsonschema
import openai
import pytest
from openai.types.chat import ChatCompletion

from headrace.models.catalog import Model
from headrace.text.tokenizer import Tokenizer
from tests.backends.engine.renamed_tokens import marked
from tests.conftest import serving_model
from tests.serving import Served

# How each format's template tells of calls; what is around them is the same for all.
CALLS = {
    "hermes": (
        "{% for call in message.tool_calls or () %}<tool_call>\n"
        '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}\n'
        "</tool_call>{% endfor %}"
    ),
    "llama3": (
        "{% for call in message.tool_calls or () %}<|python_tag|>"
        '{"name": "{{ call.function.name }}", "parameters": {{ call.function.arguments | tojson }}}'
        "{% endfor %}"
    ),
    "mistral": (
        "{% if message.tool_calls %}[TOOL_CALLS][{% for call in message.tool_calls %}"
        '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}'
        "{{ ', ' if not loop.last }}{% endfor %}]{% endif %}"
    ),
    "mistral-args": (
        "{% for call in message.tool_calls or () %}[TOOL_CALLS]{{ call.function.name }}[ARGS]"
        "{{ call.function.arguments | tojson }}{% endfor %}"
    ),
}
TRIGGERS = {
    "hermes": "<tool_call>",
    "llama3": "<|python_tag|>",
    "mistral": "[TOOL_CALLS]",
    "mistral-args": "[TOOL_CALLS]",
}
TEMPLATE = """\
{% if tools %}<|im_start|>system
Functions:
{% for tool in tools %}
{{ tool.function | tojson }}
{% endfor %}<|im_end|>
{% endif %}
{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}CALLS<|im_end|>
{% endfor %}
{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

WORD = {"type": "string", "maxLength": 8}
SCHEMAS: dict[str, dict[str, Any] | None] = {
    "get_weather": {
        "type": "object",
        "properties": {"city": WORD, "unit": {"enum": ["celsius", "fahrenheit"]}},
        "required": ["city", "unit"],
    },
    "book_table": {
        "type": "object",
        "properties": {
            "guest": {
                "type": "object",
                "properties": {"name": WORD, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
                "required": ["name"],
            },
            "dishes": {"type": "array", "items": WORD, "minItems": 1, "maxItems": 2},
        },
        "required": ["guest", "dishes"],
    },
    "plan.route": {
        "$defs": {
            "point": {"type": "array", "items": {"enum": [0, 1, 2]}, "minItems": 2, "maxItems": 2},
        },
        "type": "object",
        "properties": {"start": {"$ref": "#/$defs/point"}, "end": {"$ref": "#/$defs/point"}},
        "required": ["start", "end"],
        "additionalProperties": False,
    },
    "translate": {
        "type": "object",
        "properties": {"größe \"λ\"": {"enum": ["klein", "μεγάλο"]}, "naïve": {"type": "boolean"}},
        "required": ["größe \"λ\"", "naïve"],
        "additionalProperties": False,
    },
    "ping": None,
}  # fmt: skip
TOOLS = [
    {"type": "function", "function": {"name": name} | ({"parameters": schema} if schema else {})}
    for name, schema in SCHEMAS.items()
]
QUESTION = [{"role": "user", "content": "What is the weather in Paris?"}]


@dataclass(frozen=True)
class Side:
    """One served model and how it writes calls."""

    served: Served
    client: openai.OpenAI
    model: str
    trigger: int | None  # the token that begins calls, if it is a special one
    mark: str

    def ask(self, **members: Any) -> ChatCompletion:
        answer = self.client.chat.completions.create(**self.body(**members))
        assert isinstance(answer, ChatCompletion)
        return answer

    def body(self, **members: Any) -> dict[str, Any]:
        defaults = {"messages": QUESTION, "tools": TOOLS, "temperature": 0, "max_tokens": 90}
        return {"model": self.model, **defaults, **members}

    def tokens(self, **members: Any) -> list[int]:
        """The prompt."""
        answer = self.served.post("/tokenize", {"model": self.model, "messages": QUESTION, **members})
        assert answer.status_code == 200, answer.text
        return list(answer.json()["tokens"])

    def text(self, tokens: list[int]) -> str:
        answer = self.served.post("/detokenize", {"model": self.model, "tokens": tokens})
        return str(answer.json()["text"])


@pytest.fixture(scope="module")
def plain(exact_server: Served, default_model: Model) -> Side:
    """The default model, whose template knows no tools: ours tells it."""
    return Side(exact_server, exact_server.client(), default_model.name, None, "<tool_call>")


@pytest.fixture(scope="module", params=["plain", *CALLS])
def side(
    request: pytest.FixtureRequest,
    plain: Side,
    default_model: Model,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Side]:
    if request.param == "plain":
        yield plain
        return
    name, template = request.param, TEMPLATE.replace("CALLS", CALLS[request.param])
    model = marked(default_model, tmp_path_factory.mktemp(name), name=name, chat_template=template)
    trigger = Tokenizer(model.folder).special[TRIGGERS[name]]
    options = {"precision": "f32", "generation_config": "none", "kv_cache_bytes": "128MiB"}
    with serving_model(model, **options) as served, served.client() as client:
        yield Side(served, client, name, trigger, TRIGGERS[name])


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def calls(answer: ChatCompletion, *, index: int = 0) -> list[tuple[str, str]]:
    """(name, arguments) of a choice, after a look at what must hold of them."""
    choice = answer.choices[index]
    made = choice.message.tool_calls or []
    if made:
        assert choice.finish_reason in ("tool_calls", "length")
    assert len({call.id for call in made}) == len(made)
    assert all(call.type == "function" and call.id.startswith("call_") for call in made)
    return [(call.function.name, call.function.arguments) for call in made if call.type == "function"]


def check(name: str, arguments: str) -> None:
    schema = SCHEMAS[name]
    jsonschema.validate(json.loads(arguments), schema or {"type": "object", "maxProperties": 0})


def test_named_function_is_called_once_with_valid_arguments(side: Side) -> None:
    with ThreadPoolExecutor(len(SCHEMAS)) as pool:
        answers = dict(
            zip(SCHEMAS, pool.map(lambda name: side.ask(tool_choice=named(name)), SCHEMAS), strict=True)
        )
    for name, answer in answers.items():
        [(called, arguments)] = calls(answer)
        assert called == name
        check(name, arguments)
        assert answer.choices[0].finish_reason == "tool_calls"
        assert answer.choices[0].message.content is None


def test_required_calls_what_there_is(side: Side) -> None:
    """Hot, so that a free model would say anything."""
    options: dict[str, Any] = {"tool_choice": "required", "temperature": 1.5, "n": 2, "max_tokens": 70}
    for parallel in (False, True):
        answer = side.ask(parallel_tool_calls=parallel, seed=2, **options)
        ids = [call.id for choice in answer.choices for call in choice.message.tool_calls or ()]
        assert len(set(ids)) == len(ids)
        for choice in answer.choices:
            made = calls(answer, index=choice.index)
            assert len(made) >= 1 if parallel else len(made) == 1
            is_whole = choice.finish_reason == "tool_calls"
            assert choice.message.content is None or not is_whole, "only the beginning of a call may be left"
            whole = made if is_whole else made[:-1]
            for name, arguments in whole:
                check(name, arguments)
            assert is_whole or parallel


@pytest.mark.parametrize("choice", [named("get_weather"), "auto"], ids=["named", "auto"])
def test_stream_folds_to_the_whole_answer(side: Side, choice: Any) -> None:
    members: dict[str, Any] = {"tool_choice": choice, "max_tokens": 60 if choice != "auto" else 12}
    whole = side.ask(**members)
    final, pieces = streamed(side, **members)
    assert calls(final) == calls(whole)
    assert final.choices[0].finish_reason == whole.choices[0].finish_reason
    assert (final.choices[0].message.content or None) == (whole.choices[0].message.content or None)
    assert final.usage is not None
    assert whole.usage is not None
    assert final.usage.completion_tokens == whole.usage.completion_tokens
    if choice != "auto":
        assert len(pieces) > 3, "arguments come as they are written"
        assert "".join(pieces) == calls(whole)[0][1]


def streamed(side: Side, **members: Any) -> tuple[ChatCompletion, list[str]]:
    """The client's own fold, and the pieces of arguments."""
    body = side.body(**members, stream_options={"include_usage": True})
    with side.client.chat.completions.stream(**body) as stream:
        pieces: list[str] = []
        try:
            pieces += (e.arguments_delta for e in stream if e.type == "tool_calls.function.arguments.delta")
            return stream.get_final_completion(), pieces
        except openai.LengthFinishReasonError as cut:
            return cut.completion, pieces


@pytest.mark.parametrize("side", [*CALLS], indirect=True, scope="module")
def test_auto_is_bound_once_the_trigger_is_out(side: Side) -> None:
    """Nothing but the bias makes this model begin; from then on it cannot but call."""
    bias = {"logit_bias": {str(side.trigger): 100}, "max_tokens": 120}
    answer = side.ask(**bias, parallel_tool_calls=False)
    [(name, arguments)] = calls(answer)
    check(name, arguments)
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.content is None
    [again] = calls(streamed(side, **bias, parallel_tool_calls=False)[0])
    assert again == (name, arguments)


@pytest.mark.parametrize("side", [*CALLS], indirect=True, scope="module")
def test_call_that_is_cut_off_before_its_name_is_nothing(side: Side) -> None:
    cut: dict[str, Any] = {"logit_bias": {str(side.trigger): 100}, "max_tokens": 2}
    for answer in (side.ask(**cut), streamed(side, **cut)[0]):
        choice = answer.choices[0]
        assert choice.finish_reason == "length"
        assert choice.message.tool_calls is None
        assert not choice.message.content


def test_text_in_auto_mode_comes_out_whole(side: Side) -> None:
    """The same as when nobody reads it."""
    prompt = side.tokens(tools=TOOLS)
    unread = side.client.completions.create(model=side.model, prompt=prompt, temperature=0, max_tokens=24)
    read = side.ask(max_tokens=24)
    assert read.choices[0].message.tool_calls is None
    assert read.choices[0].message.content == unread.choices[0].text
    assert read.usage is not None
    assert read.usage.prompt_tokens == len(prompt)


def test_none_neither_tells_of_tools_nor_calls(side: Side) -> None:
    bias = {} if side.trigger is None else {"logit_bias": {str(side.trigger): 100}}
    answer = side.ask(tool_choice="none", max_tokens=4, **bias)
    assert calls(answer) == []
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(side.tokens())
    assert len(side.tokens(tools=TOOLS)) > len(side.tokens()) + 100


def test_allowed_tools_restrict_what_is_called_not_what_is_listed(side: Side) -> None:
    allowed = {"mode": "required", "tools": [named("ping"), named("translate")]}
    answer = side.ask(
        tool_choice={"type": "allowed_tools", "allowed_tools": allowed}, parallel_tool_calls=False
    )
    [(name, arguments)] = calls(answer)
    assert name in ("ping", "translate")
    check(name, arguments)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(side.tokens(tools=TOOLS))


def test_calls_and_results_reach_the_model(side: Side) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "ping", "arguments": '{"häufig": 3}'}}
    history = [
        *QUESTION,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "pong <|im_end|>"},
    ]
    answer = side.ask(messages=history, max_tokens=4)
    prompt = side.tokens(messages=history, tools=TOOLS)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(prompt) > len(side.tokens(tools=TOOLS))
    text = side.text(prompt)
    assert side.mark in text
    assert '{"häufig": 3}' in text
    assert "pong <|im_end|>" in text
    assert side.text([token for token in prompt if token != 2]).count("<|im_end|>") == 1, (
        "what is shown is text"
    )


def test_cut_call_keeps_what_came(plain: Side) -> None:
    members: dict[str, Any] = {"tool_choice": named("get_weather")}
    [(_, whole)] = calls(plain.ask(**members))
    for answer in (plain.ask(**members, max_tokens=23), streamed(plain, **members, max_tokens=23)[0]):
        [(name, arguments)] = calls(answer)
        assert answer.choices[0].finish_reason == "length"
        assert name == "get_weather"
        assert whole.startswith(arguments)
        assert 0 < len(arguments) < len(whole)


def test_older_functions_are_answered_in_their_words(plain: Side) -> None:
    members: dict[str, Any] = {
        "tools": openai.NOT_GIVEN,
        "functions": [tool["function"] for tool in TOOLS],
        "function_call": {"name": "get_weather"},
    }
    choice = plain.ask(**members).choices[0]
    assert choice.finish_reason == "function_call"
    assert choice.message.tool_calls is None
    assert choice.message.function_call is not None
    assert choice.message.function_call.name == "get_weather"
    check("get_weather", choice.message.function_call.arguments)
    chunks = list(plain.client.chat.completions.create(**plain.body(**members), stream=True))
    deltas = [delta for chunk in chunks if (delta := chunk.choices[0].delta.function_call)]
    assert "".join(delta.arguments or "" for delta in deltas) == choice.message.function_call.arguments
    assert [delta.name for delta in deltas if delta.name] == ["get_weather"]
    assert chunks[-1].choices[0].finish_reason == "function_call"
    never = plain.ask(**{**members, "function_call": "none"}, max_tokens=4)
    assert never.choices[0].message.function_call is None


BAD = {"type": "object", "properties": {"a": {"type": "strin"}}}


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"tool_choice": "required"}, "tools.1.function.parameters.properties.a.type"),
        ({"tool_choice": named("bad")}, "tools.1.function.parameters.properties.a.type"),
        ({"strict": True}, "tools.1.function.parameters.properties.a.type"),
        ({"guided_regex": "a+"}, "guided_regex"),
        ({"tool_choice": named("missing")}, "tool_choice"),
        ({"tool_choice": "required", "schema": {"type": "array"}}, "tools.1.function.parameters.type"),
    ],
    ids=str,
)
def test_what_cannot_be_promised_is_refused_by_name(plain: Side, members: dict[str, Any], param: str) -> None:
    function = {
        "name": "bad",
        "parameters": members.pop("schema", BAD),
        "strict": members.pop("strict", False),
    }
    body = plain.body(**{"tools": [TOOLS[0], {"type": "function", "function": function}], **members})
    response = plain.served.post("/v1/chat/completions", body)
    assert (response.status_code, response.json()["error"].get("param")) == (400, param), response.text


def test_older_functions_are_named_as_they_were_given(plain: Side) -> None:
    body = plain.body(functions=[{"name": "bad", "parameters": BAD}], function_call={"name": "bad"})
    del body["tools"]
    response = plain.served.post("/v1/chat/completions", body)
    expected = "functions.0.parameters.properties.a.type"
    assert response.json()["error"]["param"] == expected
    assert response.json()["error"]["message"].startswith(expected)


def test_stop_strings_do_not_cut_calls(plain: Side) -> None:
    """What stops text would leave half a call: of the mark, or of the arguments."""
    answer = plain.ask(tool_choice=named("get_weather"), stop=["\n", '"', "city"])
    [(name, arguments)] = calls(answer)
    check(name, arguments)
    assert answer.choices[0].finish_reason == "tool_calls"


def test_end_is_put_off_where_the_form_leaves_a_choice(plain: Side) -> None:
    free = plain.ask(extra_body={"ignore_eos": True}, max_tokens=60)
    assert (free.choices[0].finish_reason, free.usage and free.usage.completion_tokens) == ("length", 60)
    forced = plain.ask(extra_body={"min_tokens": 90}, tool_choice=named("ping"))
    [call] = calls(forced)
    check(*call)


def test_form_is_of_the_answer_or_the_model_calls(plain: Side) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMAS["get_weather"]}}
    for choice in plain.ask(response_format=form, n=3, temperature=1, seed=1).choices:
        if choice.finish_reason == "stop":
            check("get_weather", choice.message.content or "")
        assert choice.finish_reason in ("stop", "tool_calls")


def test_bad_schema_is_tolerated_where_nothing_was_promised(plain: Side) -> None:
    tool = {"type": "function", "function": {"name": "bad", "parameters": BAD}}
    assert plain.ask(tools=[tool], max_tokens=3).choices[0].finish_reason in ("length", "stop")
    only_good = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named("ping")]}}
    [(name, arguments)] = calls(plain.ask(tools=[tool, TOOLS[4]], tool_choice=only_good))
    assert (name, arguments) == ("ping", "{}")
