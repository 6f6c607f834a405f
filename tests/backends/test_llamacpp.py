"""llama.cpp as a backend: a real model in a real process, which ends, or is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import psutil
import pytest

from headrace.app import create_app
from headrace.backends.llamacpp import LlamaCppBackend
from headrace.backends.llamacpp.dialect import as_grammar
from headrace.config import Config
from headrace.errors import BadRequest, ModelError
from headrace.models.catalog import Model
from headrace.types import EmbedRequest, Format, GenerateRequest, Texts
from tests.serving import SLOW_S, Served, eventually, serving

# the model's own has no place for tools
TEMPLATE = """
{%- if tools %}<|im_start|>system
You may call these functions: {{ tools | tojson }}
A call is written as <tool_call>{"name": NAME, "arguments": ARGUMENTS}</tool_call><|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content or "" }}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
MESSAGES: list[Any] = [{"role": "user", "content": "Count from one to ten."}]
PARENT = """
import asyncio, sys
from pathlib import Path
from headrace.backends.llamacpp import LlamaCppBackend

async def main():
    backend = LlamaCppBackend("llamacpp", Path(sys.argv[1]), context_length=256)
    await backend.start()
    print(backend.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def backend(path: Path, **members: Any) -> LlamaCppBackend:
    return LlamaCppBackend("llamacpp", path, model="m", num_slots=2, num_threads=1, **members)


@pytest.fixture(scope="module")
def gguf(default_model: Model) -> Path:
    assert default_model.gguf is not None
    return default_model.gguf


@pytest.fixture(scope="module")
def served(gguf: Path) -> Iterator[Served]:
    with serving(
        create_app(Config(), [backend(gguf, context_length=2048, chat_template=TEMPLATE)]), silence_s=SLOW_S
    ) as served:
        yield served


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[openai.OpenAI]:
    with served.client() as client:
        yield client


def chat(client: openai.OpenAI, *, stream: bool, max_tokens: int = 24) -> Any:
    return client.chat.completions.create(
        model="m", messages=MESSAGES, temperature=0, max_tokens=max_tokens, stream=stream
    )


def test_a_stream_has_the_content_of_a_whole_answer(client: openai.OpenAI) -> None:
    whole = chat(client, stream=False)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chat(client, stream=True))
    assert len(streamed) > 20
    assert whole.choices[0].message.content == streamed
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage.completion_tokens == 24
    assert whole.usage.prompt_tokens > 10


SCHEMA: Any = {"type": "object", "properties": {"city": {"enum": ["Rome", "Paris"]}}, "required": ["city"]}
TOOLS: Any = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"tools": TOOLS},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA}}},
    ],
    ids=["text", "tools", "schema"],
)
def test_what_llama_cpp_answers_is_what_we_answer(
    served: Served, client: openai.OpenAI, members: dict[str, Any]
) -> None:
    assert isinstance(served.backend, LlamaCppBackend)
    body: dict[str, Any] = {"model": "m", "messages": MESSAGES, "temperature": 0, "max_tokens": 24, **members}
    key = served.backend._settings.key
    with openai.OpenAI(base_url=f"{served.backend.url}/v1", api_key=key, max_retries=0) as llama_cpp:
        for _ in range(2):  # from its cache it computes a little otherwise than without
            direct = _content(llama_cpp.chat.completions.create(**_for_llama_cpp(body)).choices[0])
    assert _content(client.chat.completions.create(**body).choices[0]) == direct
    assert _folded(client.chat.completions.create(**body, stream=True)) == direct


def _for_llama_cpp(body: dict[str, Any]) -> dict[str, Any]:
    """The same request with a schema as the grammar that we send."""
    if "response_format" not in body:
        return body
    form = as_grammar(GenerateRequest("m", Texts(("",)), format=Format("json_schema", SCHEMA)))
    assert form is not None
    rest = {name: value for name, value in body.items() if name != "response_format"}
    return {**rest, "extra_body": {"grammar": form.value}}


Content = tuple[str, list[tuple[str, str]], str]  # text, calls, finish_reason


def _content(choice: Any) -> Content:
    calls = [(call.function.name, call.function.arguments) for call in choice.message.tool_calls or ()]
    return choice.message.content or "", calls, choice.finish_reason


def _folded(chunks: Any) -> Content:
    text, calls, reason = "", list[tuple[str, str]](), ""
    for chunk in chunks:
        choice = chunk.choices[0]
        text, reason = text + (choice.delta.content or ""), choice.finish_reason or reason
        for call in choice.delta.tool_calls or ():
            calls += [("", "")] * (call.index + 1 - len(calls))
            name, arguments = calls[call.index]
            name, arguments = name + (call.function.name or ""), arguments + (call.function.arguments or "")
            calls[call.index] = name, arguments
    return text, calls, reason


def test_a_required_call_that_is_missing_is_an_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError, match="tool_choice requires one"):
        client.chat.completions.create(
            model="m", messages=MESSAGES, tools=TOOLS, tool_choice="required", stop=["e"], temperature=0
        )


def test_texts_are_continued(client: openai.OpenAI) -> None:
    found = client.completions.create(
        model="m", prompt="The capital of France is", max_tokens=4, temperature=0
    )
    assert "Paris" in found.choices[0].text


def test_l10_a_request_may_have_more_answers_than_there_are_places(gguf: Path) -> None:
    with serving(
        create_app(Config(), [backend(gguf, context_length=256, max_queue=1)]), silence_s=SLOW_S
    ) as small:
        body = {"model": "m", "prompt": [f"{number}," for number in range(12)], "max_tokens": 1}
        answer = small.post("/v1/completions", body)
        assert [choice["index"] for choice in answer.json()["choices"]] == list(range(12))
        refused = small.post("/v1/completions", {"model": "m", "prompt": ["a"] * 1025})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "prompt")


def test_the_model_is_listed(served: Served, client: openai.OpenAI, gguf: Path) -> None:
    listed = served.backend.models()
    assert [(info.id, info.owned_by, info.max_model_len) for info in listed] == [("m", "llamacpp", 2048)]
    assert [model.id for model in client.models.list()] == ["m"]
    assert served.backend.find("other") is None
    assert LlamaCppBackend("llamacpp", gguf)._model == gguf.stem


def test_tokens_and_back(served: Served) -> None:
    tokens = served.post("/tokenize", {"model": "m", "prompt": "Grüße, world"}).json()["tokens"]
    assert served.post("/detokenize", {"model": "m", "tokens": tokens}).json()["prompt"] == "Grüße, world"
    templated = served.post("/tokenize", {"model": "m", "messages": MESSAGES}).json()["tokens"]
    assert "Count from one to ten." in served.post("/detokenize", {"model": "m", "tokens": templated}).text


def test_too_long_a_prompt_is_refused_as_such(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="m", prompt="word " * 3000, max_tokens=4)
    assert refused.value.code == "context_length_exceeded"


def test_its_server_wants_the_key(served: Served) -> None:
    assert isinstance(served.backend, LlamaCppBackend)
    answer = httpx2.post(f"{served.backend.url}/v1/chat/completions", json={"messages": MESSAGES})
    assert answer.status_code == 401
    assert served.backend.pid is not None
    key = served.backend._settings.key
    assert key not in " ".join(psutil.Process(served.backend.pid).cmdline())


def test_it_does_not_embed(gguf: Path) -> None:
    with pytest.raises(BadRequest):
        asyncio.run(backend(gguf).embed(EmbedRequest("m", ("a",))))


def test_a_file_that_is_no_model_is_an_error(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF, or not")
    with pytest.raises(ModelError, match=r"broken\.gguf"):
        asyncio.run(backend(broken).start())


def test_it_is_started_again_as_often_as_it_ends(gguf: Path) -> None:
    killed = backend(gguf, context_length=2048)
    with serving(create_app(Config(), [killed]), silence_s=SLOW_S) as served, served.client() as client:
        with pytest.raises(openai.BadRequestError, match="no place for"):  # llama.cpp would just leave it out
            client.chat.completions.create(model="m", messages=MESSAGES, tools=TOOLS)
        first = _pid(killed)
        stream = client.chat.completions.create(  # one that does not end by itself
            model="m", messages=MESSAGES, max_tokens=2000, stream=True, extra_body={"ignore_eos": True}
        )
        next(stream)
        os.kill(first, signal.SIGKILL)
        with pytest.raises(openai.APIError, match="ended while it answered"):
            list(stream)
        stream.close()
        eventually(lambda: killed.pid not in (None, first))
        assert chat(client, stream=False).choices[0].message.content
        second = _pid(killed)
        os.kill(second, signal.SIGKILL)
        eventually(lambda: not killed.is_alive)  # it pauses, because it ended soon
        with pytest.raises(openai.InternalServerError) as refused:
            chat(client, stream=False)
        assert (refused.value.status_code, refused.value.code) == (503, "provider_unreachable")
        eventually(lambda: killed.pid not in (None, first, second))
        assert chat(client, stream=False).choices[0].message.content
        assert killed.is_alive


def test_ctrl_c_is_not_for_it(served: Served) -> None:
    """Its process is in a session of its own, which Ctrl-C does not reach: running answers finish first."""
    assert isinstance(served.backend, LlamaCppBackend)
    assert os.getsid(_pid(served.backend)) != os.getsid(0)


def test_it_does_not_outlive_who_started_it(gguf: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(gguf)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert psutil.pid_exists(pid)
        parent.kill()
    eventually(lambda: _has_ended(pid))


def _has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE  # its parent is gone: nobody asks for it
    except psutil.NoSuchProcess:
        return True


def _pid(backend: LlamaCppBackend) -> int:
    assert backend.pid is not None
    return backend.pid
