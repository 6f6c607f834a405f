"""The tables of parameters are whole: what the official client can send, and what the bodies declare."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import ollama
import pytest
from anthropic.resources.messages import Messages
from openai.resources.chat.completions import Completions as ChatCompletions
from openai.resources.completions import Completions
from openai.resources.embeddings import Embeddings
from pydantic import BaseModel

from docgen.compatibility import EVERY, compatibility, kinds
from headrace.features import Feature
from headrace.wire.anthropic.request import OWN, MessagesBody
from headrace.wire.anthropic.tables import MESSAGES
from headrace.wire.chat import ChatBody
from headrace.wire.completions import CompletionBody
from headrace.wire.elsewhere import ADVICE, ELSEWHERE
from headrace.wire.embeddings import EmbeddingsBody
from headrace.wire.generation import StreamOptions
from headrace.wire.ollama.request import EmbedBody, OllamaChatBody, OllamaEmbeddingsBody, OllamaGenerateBody
from headrace.wire.ollama.tables import TABLES as OLLAMA
from headrace.wire.parameters import Table
from headrace.wire.tables import CHAT, COMPLETIONS, EMBEDDINGS

DOCUMENT = Path(__file__).parent.parent / "docs" / "compatibility.md"
OF_THE_CLIENT = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}  # it keeps them to itself
ENDPOINTS: list[Any] = [
    pytest.param(CHAT, ChatBody, ChatCompletions.create, id="chat"),
    pytest.param(COMPLETIONS, CompletionBody, Completions.create, id="completions"),
    pytest.param(EMBEDDINGS, EmbeddingsBody, Embeddings.create, id="embeddings"),
    pytest.param(MESSAGES, MessagesBody, Messages.create, id="messages"),
    pytest.param(OLLAMA["chat"], OllamaChatBody, ollama.Client.chat, id="/api/chat"),
    pytest.param(OLLAMA["generate"], OllamaGenerateBody, ollama.Client.generate, id="/api/generate"),
    pytest.param(OLLAMA["embed"], EmbedBody, ollama.Client.embed, id="/api/embed"),
    pytest.param(OLLAMA["embeddings"], OllamaEmbeddingsBody, ollama.Client.embeddings, id="/api/embeddings"),
]


def members(kind: type[BaseModel]) -> set[str]:
    return {field.alias or name for name, field in kind.model_fields.items()}


def test_document_is_current() -> None:
    assert DOCUMENT.read_text() == compatibility(), "run `make docs`"


@pytest.mark.parametrize(("table", "body", "create"), ENDPOINTS)
def test_every_parameter_of_the_official_client_is_in_the_table(
    table: Table, body: type[BaseModel], create: Any
) -> None:
    known = set(inspect.signature(create).parameters) - OF_THE_CLIENT
    assert len(known) >= 4
    assert known - set(table) == set()


@pytest.mark.parametrize(("table", "body", "create"), ENDPOINTS)
def test_what_a_body_declares_is_honoured_and_nothing_else(
    table: Table, body: type[BaseModel], create: Any
) -> None:
    carriable = frozenset[Feature]().union(*(kind.features for kind in kinds().values()))
    lost = {"ignored", "dropped", "refused", *(set(Feature) - carriable)}
    honoured = {name for name, row in table.items() if row.asks not in lost}
    carried = {*ELSEWHERE, *ADVICE, *OWN} - members(body)  # undeclared, to the servers that know it
    assert members(body) == {name for name in honoured if "." not in name and name not in carried}
    if "stream_options" in members(body):
        assert {f"stream_options.{name}" for name in members(StreamOptions)} == {
            name for name in honoured if name.startswith("stream_options.")
        }


def test_notes_fit_into_a_table() -> None:
    for table in EVERY.values():
        for parameter in table.values():
            assert "|" not in parameter.note
            assert "\n" not in parameter.note
