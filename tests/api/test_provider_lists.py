"""G27: lists of models as providers send them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from headrace.app import create_app
from headrace.assembly import build_providers
from headrace.backends.remote import listed
from headrace.config import Config
from headrace.errors import ProviderError
from tests.serving import Served, eventually, serving
from tests.upstream import Upstream, answer, scripted

LISTS: dict[str, Any] = {
    "ids alone": ["m1", "m2"],
    "ids alone in a member": {"data": ["m1", "m2"]},
    "by name": {"models": [{"name": "m1"}, {"name": "m2"}, {}]},
    "by model": {"data": [{"model": "m1"}, {"model": "m2"}]},
    "twice": {"data": [{"id": "m1"}, {"id": "m2"}, {"id": "m1"}]},
    "in another member": {"models": [{"id": "m1"}, {"id": "m2"}]},
    "without an object": [{"id": "m1"}, {"id": "m2"}],
    "some without an id": {"data": ["x", {"name": "x"}, None, {"id": 5}, {"id": "m1"}, {"id": "m2"}]},
}


@contextmanager
def provided(provider: Upstream, kind: str) -> Iterator[Served]:
    url = provider.url + ("/v1" if kind == "openai" else "")
    found = {"models": {"default": ""}, "providers": {"p": {"kind": kind, "base_url": url}}}
    config = Config.model_validate(found)
    with serving(create_app(config, build_providers(config))) as served:
        yield served


def ids(served: Served) -> list[str]:
    return [entry["id"] for entry in served.http.get("/p/v1/models").json()["data"]]


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
@pytest.mark.parametrize("found", LISTS.values(), ids=LISTS)
def test_g27_a_list_of_another_form_is_read(found: Any, kind: str) -> None:
    with scripted() as provider:
        provider.always("/v1/models", answer(found))
        with provided(provider, kind) as served:
            eventually(lambda: ids(served) == ["m1", "m2"])


def test_g27_pages_that_never_end_name_each_model_once() -> None:
    with scripted() as provider:
        provider.always("/v1/models", answer({"data": [{"id": "m"}], "has_more": True, "last_id": "m"}))
        with provided(provider, "anthropic") as served:
            eventually(lambda: ids(served) == ["m"])


@pytest.mark.parametrize("found", [{"object": "list", "data": None}, {"data": []}, {"models": None}])
def test_g27_a_list_that_is_null_is_empty(found: Any) -> None:
    assert listed("p", found, "data") == []


@pytest.mark.parametrize("found", [{"detail": "Not Found"}, None, [], {"data": [{}, 5]}, {"data": 5}])
def test_g27_what_is_no_list_is_an_error(found: Any) -> None:
    with pytest.raises(ProviderError):
        listed("p", found, "data")


@pytest.mark.parametrize("status", [500, 503, 504])
def test_g27_one_model_that_ollama_cannot_describe_costs_no_list(status: int) -> None:
    with scripted() as provider:
        provider.always("/api/tags", answer({"models": [{"name": "m1"}, {"name": "m2"}]}))
        provider.chooses = lambda _: answer({"error": "its words"}, status=status)
        with provided(provider, "ollama") as served:
            eventually(lambda: ids(served) == ["m1", "m2"])
