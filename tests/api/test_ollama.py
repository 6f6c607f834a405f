"""Ollama's dialect through the real server and the default model, by Ollama's own client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Protocol

import ollama
import pytest

from headrace.backends.anthropic import AnthropicBackend
from headrace.backends.fake import FakeBackend
from headrace.config import Config
from headrace.errors import EngineFailed, UnsupportedParameter
from headrace.models.catalog import DEFAULT_MODEL
from headrace.types import Finished, ReasoningDelta, Started, TextDelta, ToolCallDelta, Usage
from tests.conftest import FakeServer
from tests.serving import Served

QUESTION: list[Any] = [{"role": "user", "content": "What color is the sky?"}]
GREEDY = {"temperature": 0, "num_predict": 12, "seed": 1}  # seeded: whatever else runs
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"color": {"enum": ["blue", "green"]}},
    "required": ["color"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[ollama.Client]:
    with ollama.Client(host=server.url) as client:
        yield client


class Clients(Protocol):
    def __call__(self, served: Served, **options: Any) -> ollama.Client: ...


@pytest.fixture
def client_of() -> Iterator[Clients]:
    """Call it with a server to get a client, which is closed after the test."""
    with ExitStack() as exits:

        def start(served: Served, **options: Any) -> ollama.Client:
            client: ollama.Client = exits.enter_context(ollama.Client(host=served.url, **options))
            return client

        yield start


class Scripted(Protocol):
    def __call__(self, *script: Any, **options: Any) -> ollama.Client: ...


@pytest.fixture
def scripted(fake_server: FakeServer, client_of: Clients) -> Scripted:
    """Call it with a script to get a client of a server that answers so."""
    return lambda *script, **options: client_of(fake_server(FakeBackend(script, **options)))


def context_of(served: Served) -> int:
    return int(served.get("/v1/models").json()["data"][0]["max_model_len"])


def lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_chat_is_what_openais_dialect_answers(client: ollama.Client, server: Served) -> None:
    answer = client.chat(model=DEFAULT_MODEL, messages=QUESTION, options=GREEDY)
    with server.client() as other:
        expected = other.chat.completions.create(
            model=DEFAULT_MODEL,
            messages=QUESTION,
            temperature=0,
            max_tokens=12,
            seed=1,
        )
    assert answer.message.content == expected.choices[0].message.content
    assert (answer.done, answer.done_reason, answer.model) == (True, "length", DEFAULT_MODEL)
    assert expected.usage is not None
    assert (answer.prompt_eval_count, answer.eval_count) == (expected.usage.prompt_tokens, 12)
    durations = (answer.prompt_eval_duration, answer.eval_duration, answer.total_duration)
    assert all(isinstance(duration, int) and duration > 0 for duration in durations)
    assert sum(duration or 0 for duration in durations[:2]) <= (answer.total_duration or 0)


def test_a_stream_is_the_same_in_pieces(client: ollama.Client) -> None:
    whole = client.chat(model=DEFAULT_MODEL, messages=QUESTION, options=GREEDY)
    pieces = list(client.chat(model=DEFAULT_MODEL, messages=QUESTION, options=GREEDY, stream=True))
    assert "".join(piece.message.content or "" for piece in pieces) == whole.message.content
    assert [piece.done for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert (pieces[-1].done_reason, pieces[-1].eval_count) == ("length", 12)
    assert len(pieces) >= 2, "drafts that are right make pieces of several tokens"


def test_a_body_without_stream_is_streamed_as_lines(server: Served) -> None:
    body = {"model": DEFAULT_MODEL, "messages": QUESTION, "options": GREEDY}
    answer = server.post("/api/chat", body)
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert [line["done"] for line in lines(answer.text)][-1] is True
    assert answer.headers["x-headrace-backend"] == "headrace"


@pytest.mark.parametrize(
    "content_type", ["application/x-www-form-urlencoded", "text/plain;charset=UTF-8", None]
)
def test_any_content_type_will_do_but_not_from_a_page(server: Served, content_type: str | None) -> None:
    """curl's -d sends the first, JavaScript's fetch the second."""
    body = json.dumps({"model": DEFAULT_MODEL, "prompt": "Hi", "stream": False, "options": GREEDY}).encode()
    headers = {} if content_type is None else {"Content-Type": content_type}
    sent = server.http.build_request("POST", "/api/generate", content=body, headers=headers)
    assert server.http.send(sent).status_code == 200
    own = {"Origin": server.url}
    sent = server.http.build_request("POST", "/api/generate", content=body, headers={**headers, **own})
    assert server.http.send(sent).status_code == 415


def test_a_prompt_is_a_question_or_with_raw_a_text(client: ollama.Client, server: Served) -> None:
    question = QUESTION[0]["content"]
    generated = client.generate(model=DEFAULT_MODEL, prompt=question, options=GREEDY)
    assert (
        generated.response
        == client.chat(model=DEFAULT_MODEL, messages=QUESTION, options=GREEDY).message.content
    )
    raw = client.generate(model=DEFAULT_MODEL, prompt="The sky is", raw=True, options=GREEDY)
    with server.client() as other:
        expected = other.completions.create(
            model=DEFAULT_MODEL, prompt="The sky is", temperature=0, max_tokens=12, seed=1
        )
    assert raw.response == expected.choices[0].text
    pieces = client.generate(model=DEFAULT_MODEL, prompt="The sky is", raw=True, options=GREEDY, stream=True)
    assert "".join(piece.response or "" for piece in pieces) == raw.response


@pytest.mark.parametrize("stream", [True, False])
def test_a_format_is_enforced(client: ollama.Client, stream: bool) -> None:
    sent: dict[str, Any] = {"model": DEFAULT_MODEL, "messages": QUESTION, "format": SCHEMA}
    pieces = list(client.chat(**sent, stream=True)) if stream else [client.chat(**sent)]
    text = "".join(piece.message.content or "" for piece in pieces)
    assert json.loads(text)["color"] in ("blue", "green")


def test_json_is_an_object(client: ollama.Client) -> None:
    answer = client.chat(model=DEFAULT_MODEL, messages=QUESTION, format="json", options={"num_predict": 80})
    text = answer.message.content or ""
    assert text.lstrip().startswith("{")
    if answer.done_reason == "stop":
        assert isinstance(json.loads(text), dict)


def test_logprobs_belong_to_the_text(client: ollama.Client) -> None:
    answer = client.chat(
        model=DEFAULT_MODEL, messages=QUESTION, options=GREEDY, logprobs=True, top_logprobs=2
    )
    assert answer.logprobs is not None
    assert "".join(token.token for token in answer.logprobs) == answer.message.content
    assert all(len(token.top_logprobs or ()) == 2 and token.logprob <= 0 for token in answer.logprobs)
    pieces = list(
        client.chat(model=DEFAULT_MODEL, messages=QUESTION, options=GREEDY, logprobs=True, stream=True)
    )
    tokens = [token.token for piece in pieces for token in piece.logprobs or ()]
    assert tokens == [token.token for token in answer.logprobs]


def test_options_are_sampled_with(client: ollama.Client) -> None:
    seeded = {"seed": 5, "temperature": 1.0, "num_predict": 8, "top_k": 50}
    first, again = (
        client.generate(model=DEFAULT_MODEL, prompt="Tell me a story", options=seeded) for _ in range(2)
    )
    assert first.response == again.response
    stop = client.generate(
        model=DEFAULT_MODEL, prompt="Once upon a time", raw=True, options={"stop": [" "], "temperature": 0}
    )
    assert " " not in (stop.response or "")
    assert stop.done_reason == "stop"


# Those of its Modelfile, of its Go struct, and of versions that had more.
DEFAULTS: list[dict[str, Any]] = [
    {
        "num_ctx": 4096, "repeat_last_n": 64, "repeat_penalty": 1.1, "temperature": 0.8, "seed": 0,
        "top_k": 40, "top_p": 0.9, "min_p": 0.0, "num_predict": -1, "num_keep": 4, "typical_p": 1.0,
        "presence_penalty": 0.0, "frequency_penalty": 0.0, "stop": None, "num_batch": 512, "num_gpu": -1,
        "main_gpu": 0, "use_mmap": None, "num_thread": 0, "draft_num_predict": 0,
    },
    {
        "mirostat": 0, "mirostat_eta": 0.1, "mirostat_tau": 5.0, "tfs_z": 1, "penalize_newline": True,
        "numa": False, "low_vram": False, "f16_kv": True, "vocab_only": False, "use_mmap": True,
        "use_mlock": False,
        "logits_all": False, "embedding_only": False, "num_gqa": 1, "rope_frequency_base": 10000.0,
        "rope_frequency_scale": 1.0, "repeat_penalty": 1.1, "repeat_last_n": 64,
    },
]  # fmt: skip


@pytest.mark.parametrize("options", DEFAULTS, ids=["new", "old"])
def test_ollamas_own_defaults_are_taken_as_they_are(server: Served, options: dict[str, Any]) -> None:
    def answer(options: dict[str, Any]) -> Any:
        body = {"model": DEFAULT_MODEL, "messages": QUESTION, "options": options, "stream": False}
        return server.post("/api/chat", body)

    brief = {**options, "temperature": 0, "num_predict": 40, "seed": 1}
    written = answer(brief)
    assert written.status_code == 200, written.text
    for name, value in (("typical_p", 0.5), ("mirostat", 2), ("tfs_z", 0.5), ("penalize_newline", False)):
        refused = answer({**brief, name: value})
        assert refused.status_code == 400, refused.text
        assert f"options.{name}" in refused.text
    near = answer({**brief, "repeat_last_n": 1, "repeat_penalty": 1.9}).json()["message"]["content"]
    assert near != answer({**brief, "repeat_penalty": 1.9}).json()["message"]["content"]


def test_a_model_is_shown_with_what_it_can_do(client: ollama.Client, server: Served) -> None:
    shown = client.show(DEFAULT_MODEL)
    assert set(shown.capabilities or ()) == {"completion", "tools", "embedding"}
    assert shown.modelinfo is not None
    architecture = shown.modelinfo["general.architecture"]
    assert shown.modelinfo[f"{architecture}.context_length"] == context_of(server)
    assert shown.modelinfo[f"{architecture}.block_count"] == 30
    assert shown.modelinfo["general.basename"] == DEFAULT_MODEL
    assert shown.details is not None
    assert (shown.details.family, shown.details.quantization_level) == ("llama", "Q4_1")
    assert "<|im_start|>" in (shown.template or "")
    assert (shown.parameters or "").split() == ["temperature", "0.2", "top_p", "0.9"]


def test_models_are_listed_by_the_names_of_v1(client: ollama.Client, server: Served) -> None:
    served = [entry["id"] for entry in server.get("/v1/models").json()["data"]]
    listed = client.list().models
    assert [one.model for one in listed] == served
    (model,) = (one for one in listed if one.model == DEFAULT_MODEL)
    (running,) = (one for one in client.ps().models if one.model == DEFAULT_MODEL)
    assert model.digest == running.digest
    assert len(model.digest or "") == 64
    assert (model.size or 0) > 50_000_000
    assert running.expires_at is not None
    assert running.context_length == context_of(server)


def test_a_tag_may_follow_a_name(client: ollama.Client) -> None:
    name = f"{DEFAULT_MODEL}:latest"
    assert client.generate(model=name, prompt="Hi", options=GREEDY).model == name
    assert client.show(name).details is not None
    assert len(client.embed(model=name, input="Hi").embeddings) == 1


def test_embeddings_are_those_of_v1(client: ollama.Client, server: Served) -> None:
    texts = ["The sky is blue.", "Grass is green."]
    found = client.embed(model=DEFAULT_MODEL, input=texts)
    with server.client() as other:
        expected = other.embeddings.create(model=DEFAULT_MODEL, input=texts)
    for mine, theirs in zip(found.embeddings, expected.data, strict=True):
        assert list(mine) == pytest.approx(theirs.embedding, abs=1e-6)
    assert found.prompt_eval_count == expected.usage.prompt_tokens
    (one,) = client.embed(model=DEFAULT_MODEL, input=texts[0], dimensions=16).embeddings
    assert len(one) == 16
    old = client.embeddings(model=DEFAULT_MODEL, prompt=texts[0]).embedding
    assert list(old) == pytest.approx(list(found.embeddings[0]), abs=1e-6)


def test_no_text_loads_the_model_and_says_so(client: ollama.Client) -> None:
    loaded = client.generate(model=DEFAULT_MODEL)
    assert (loaded.done, loaded.done_reason, loaded.response) == (True, "load", "")
    chat = client.chat(model=DEFAULT_MODEL, messages=[], keep_alive="5m")
    assert (chat.done, chat.done_reason, chat.message.content) == (True, "load", "")
    assert client.embed(model=DEFAULT_MODEL, input="").embeddings == []
    assert client.embeddings(model=DEFAULT_MODEL).embedding == []


LONG = "word " * 9000  # more tokens than the model's context has


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/api/embed", "/api/embeddings"])
def test_a_long_prompt_is_refused_and_not_cut(server: Served, path: str) -> None:
    text = {"messages": [{"role": "user", "content": LONG}], "prompt": LONG, "input": LONG}
    answer = server.post(path, {"model": DEFAULT_MODEL, **text, "options": {"num_ctx": 2048}})
    assert answer.status_code == 400
    assert f"maximum context length is {context_of(server)} tokens" in answer.json()["error"]


def test_a_long_prompt_is_cut_where_its_caller_says_so(small_server: Served) -> None:
    text = "word " * 400
    for path, prompt in (("/api/generate", {"prompt": text}), ("/api/embed", {"input": text})):
        body = {"model": DEFAULT_MODEL, **prompt, "truncate": True, "stream": False, "options": GREEDY}
        answer = small_server.post(path, body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["prompt_eval_count"] <= 256
        assert small_server.post(path, {**body, "truncate": False}).status_code == 400


@pytest.mark.parametrize(
    ("path", "members", "status", "words"),
    [
        ("/api/chat", {"model": "other", "messages": QUESTION}, 404, "not found, try pulling it first"),
        ("/api/chat", {"model": None, "messages": QUESTION}, 400, "model: Input should be a valid string"),
        ("/api/chat", {"messages": QUESTION, "options": {"top_p": 7}}, 400, "options.top_p"),
        ("/api/chat", {"messages": QUESTION, "keep_alive": "soon"}, 400, "keep_alive"),
        ("/api/chat", {"messages": [{**QUESTION[0], "images": ["/9j/"]}]}, 400, "text only"),
        ("/api/generate", {"prompt": "x", "context": [1, 2]}, 400, "Use `/api/chat`"),
        ("/api/generate", {"prompt": "x", "template": "y"}, 400, "template"),
        ("/api/generate", {"prompt": "x", "suffix": "y"}, 400, "suffix"),
        ("/api/generate", {"prompt": "x", "raw": True, "system": "y"}, 400, "Not with raw"),
        ("/api/generate", {"prompt": "x", "options": {"mirostat": 1}}, 400, "mirostat"),
        ("/api/generate", {"prompt": "x", "top_logprobs": 2}, 400, "top_logprobs"),
        ("/api/show", {"model": None}, 400, "model: Field required"),
        ("/api/show", {"model": "other"}, 404, "not found"),
        ("/api/push", {}, 404, "nothing is uploaded"),
    ],
)
def test_errors_are_one_text(
    server: Served, path: str, members: dict[str, object], status: int, words: str
) -> None:
    answer = server.post(path, {"model": DEFAULT_MODEL, **members})
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    assert words in answer.json()["error"]


def test_errors_of_the_framework_are_one_text_too(server: Served) -> None:
    answer = server.http.get("/api/chat")
    assert (answer.status_code, list(answer.json()), answer.headers["allow"]) == (405, ["error"], "POST")
    broken = server.post("/api/chat", content=b"{")
    assert (broken.status_code, list(broken.json())) == (400, ["error"])


def test_what_has_no_effect_is_named(server: Served) -> None:
    body = {
        "model": DEFAULT_MODEL, "messages": QUESTION, "stream": False, "think": True, "shift": True,
        "options": {**GREEDY, "num_ctx": 4096, "num_gpu": 0, "strange": 1},
    }  # fmt: skip
    answer = server.post("/api/chat", body)
    named = set(answer.headers["x-headrace-ignored"].split(", "))
    assert named == {"think", "shift", "options.num_ctx", "options.num_gpu", "options.strange"}
    strict = server.post("/api/chat", body, headers={"X-Headrace-Strict": "true"})
    assert strict.status_code == 400
    assert "strange" in strict.json()["error"]


def test_thoughts_and_calls_have_their_places(scripted: Scripted) -> None:
    script = (
        Started(0, 0.1, 0.2, 9), ReasoningDelta(0, "Let me "), ReasoningDelta(0, "look."),
        TextDelta(0, "I look."),
        ToolCallDelta(0, 0, '{"city": ', "c1", "weather"), ToolCallDelta(0, 0, '"Oslo"}'),
        ToolCallDelta(0, 1, '{"city": "Rome"}', "c2", "weather"), ToolCallDelta(0, 2, "", "c3", "now"),
        Finished(0, "tool_calls", Usage(9, 30), decode_s=1.5),
    )  # fmt: skip
    client = scripted(*script)
    sent: dict[str, Any] = {"model": "fake", "messages": QUESTION, "tools": [WEATHER]}
    answer = client.chat(**sent)
    message = answer.message
    assert (message.thinking, message.content, answer.done_reason) == ("Let me look.", "I look.", "stop")
    expected = [("weather", {"city": "Oslo"}), ("weather", {"city": "Rome"}), ("now", {})]
    assert [(c.function.name, c.function.arguments) for c in message.tool_calls or ()] == expected
    assert (answer.prompt_eval_duration, answer.eval_duration) == (200_000_000, 1_500_000_000)
    pieces = list(client.chat(**sent, stream=True))
    calls = [c for piece in pieces for c in piece.message.tool_calls or ()]
    assert [(c.function.name, c.function.arguments) for c in calls] == expected
    assert "".join(piece.message.thinking or "" for piece in pieces) == "Let me look."
    assert (pieces[-1].done_reason, pieces[-1].eval_count) == ("stop", 30)


def test_a_failure_in_mid_stream_is_a_line(scripted: Scripted) -> None:
    client = scripted("Hello", error=EngineFailed("it broke"))
    with pytest.raises(ollama.ResponseError, match="it broke"):
        list(client.chat(model="fake", messages=QUESTION, stream=True))
    with pytest.raises(ollama.ResponseError, match="it broke") as caught:
        client.chat(model="fake", messages=QUESTION)
    assert caught.value.status_code == 500


def test_unknown_counts_are_absent(scripted: Scripted) -> None:
    client = scripted("Hi", Finished(0, "stop", Usage(0, 0, is_known=False)))
    answer = client.chat(model="fake", messages=QUESTION)
    assert (answer.prompt_eval_count, answer.eval_count, answer.eval_duration) == (None, None, None)


def test_silence_is_filled_with_lines_that_say_nothing() -> None:
    from headrace.api.ollama import ChatWriter, GenerateWriter

    chat = ollama.ChatResponse(**json.loads(ChatWriter.keep_alive_frame))
    assert (chat.message.content, chat.done) == ("", False)
    generate = ollama.GenerateResponse(**json.loads(GenerateWriter.keep_alive_frame))
    assert (generate.response, generate.done) == ("", False)


def test_a_key_is_needed_where_there_are_keys(fake_server: FakeServer, client_of: Clients) -> None:
    served = fake_server(config=Config.model_validate({"server": {"api_keys": ["secret"]}}))
    assert served.get("/api/version").status_code == 200
    with pytest.raises(ollama.ResponseError) as caught:
        client_of(served).list()
    assert caught.value.status_code == 401
    assert client_of(served, headers={"Authorization": "Bearer secret"}).list().models[0].model == "fake"


def test_models_of_providers_are_there_too(fake_server: FakeServer, client_of: Clients) -> None:
    config = Config.model_validate({"providers": {"p": {"kind": "fake"}}})
    remote = FakeBackend(["Hello"], name="p", id="m", features=AnthropicBackend.features)
    client = client_of(fake_server(remote, config=config))
    assert [model.model for model in client.list().models] == ["p:m"]
    assert not client.ps().models, "they are in no memory of this machine"
    assert client.chat(model="p:m", messages=QUESTION).message.content == "Hello"
    shown = client.show("p:m")
    assert set(shown.capabilities or ()) == {"completion", "tools"}
    assert (shown.modelinfo or {})["general.architecture"] == "p"


def test_a_wish_that_a_model_refuses_is_left_out(fake_server: FakeServer) -> None:
    backend = FakeBackend(["Hi"], refusal=UnsupportedParameter("no efforts", param="reasoning_effort"))
    served = fake_server(backend)
    body = {"model": "fake", "messages": QUESTION, "stream": False, "think": True}
    assert served.post("/api/chat", body).status_code == 400, "it refuses what is left, too"
    assert len(backend.requests) == 2, "it was asked again, without the wish"


# What programs send, as they do.


def test_home_assistant(client: ollama.Client, server: Served) -> None:
    """Its conversation agent: lists models, then streams with tools, num_ctx and keep_alive."""
    models = {model["model"] for model in client.list()["models"]}
    assert DEFAULT_MODEL in models
    stream = client.chat(
        model=DEFAULT_MODEL,
        messages=[{"role": "system", "content": "You are a voice assistant."}, *QUESTION],
        tools=[WEATHER],
        stream=True,
        keep_alive="-1s",
        options={"num_ctx": 8192.0, "num_predict": 40},  # it sends no limit itself
        think=False,
    )
    pieces = list(stream)
    assert pieces[-1]["done"] is True
    assert all(piece["message"]["role"] == "assistant" for piece in pieces)
    for piece in pieces:
        for call in piece["message"].get("tool_calls") or ():
            assert isinstance(call["function"]["arguments"], dict)
    task = client.chat(model=DEFAULT_MODEL, messages=QUESTION, format=SCHEMA, keep_alive=-1, think=False)
    assert json.loads(task["message"]["content"])["color"] in ("blue", "green")


def test_home_assistant_reads_a_forced_call(scripted: Scripted) -> None:
    said = ToolCallDelta(0, 0, '{"name": "kitchen", "domain": ["light"]}', "c", "HassTurnOn")
    client = scripted(said, Finished(0, "tool_calls", Usage(5, 9)))
    (first, last) = client.chat(model="fake", messages=QUESTION, tools=[WEATHER], stream=True)
    (call,) = first["message"]["tool_calls"]
    assert call["function"]["arguments"] == {"name": "kitchen", "domain": ["light"]}
    answered: list[Any] = [
        *QUESTION,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": '{"success": true}', "tool_name": "HassTurnOn"},
    ]
    assert client.chat(model="fake", messages=answered, tools=[WEATHER]).done
    assert last["done_reason"] == "stop"


def test_copilot(server: Served) -> None:
    """VS Code asks for version, models and capabilities here, and for answers under /v1."""
    version = server.get("/api/version").json()["version"]
    assert tuple(map(int, version.split("."))) >= (0, 6, 4)
    model = server.get("/api/tags").json()["models"][0]
    body = json.dumps({"model": model["model"]}).encode()
    shown = server.post("/api/show", content=body, headers={"Content-Type": "text/plain"}).json()
    assert {"completion", "tools"} <= set(shown["capabilities"])
    architecture = shown["model_info"]["general.architecture"]
    assert shown["model_info"][f"{architecture}.context_length"] == context_of(server)
    sent = {"model": model["model"], "messages": QUESTION, "stream": True, "max_tokens": 8}
    assert server.post("/v1/chat/completions", sent).text.endswith("data: [DONE]\n\n")


def test_open_webui(server: Served) -> None:
    """Its Ollama connection: /api/version, /api/tags, /api/ps, and bodies with many members."""
    assert server.get("/api/version").json()["version"]
    model = server.get("/api/tags").json()["models"][0]
    assert {"name", "model", "digest", "details", "modified_at", "size"} <= model.keys()
    running = server.get("/api/ps").json()["models"][0]
    assert running["expires_at"].endswith("Z")
    body = {
        "model": model["model"], "messages": QUESTION, "options": GREEDY, "stream": True, "keep_alive": "5m",
        "format": None, "think": None, "tools": None, "template": None,
    }  # fmt: skip
    answer = server.post("/api/chat", body)
    assert (answer.status_code, lines(answer.text)[-1]["done"]) == (200, True)
    title = {"model": model["model"], "prompt": "A title:", "stream": False, "options": GREEDY}
    assert server.post("/api/generate", title).json()["response"]
    assert len(server.post("/api/embed", {"model": model["model"], "input": ["a"]}).json()["embeddings"]) == 1
