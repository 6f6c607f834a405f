"""DELETE /v1/models/{id}: in OpenAI's shape, and nothing is deleted."""

from __future__ import annotations

import openai
import pytest

from tests.conftest import FakeServer


@pytest.mark.parametrize("prefix", ["/v1", "/fake/v1"])
def test_l24_a_model_that_is_served_is_not_deleted(fake_server: FakeServer, prefix: str) -> None:
    server = fake_server()
    name = server.backend.name
    answer = server.http.delete(f"{prefix.replace('fake', name)}/models/fake")
    assert answer.status_code == 403, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "headrace rm" in error["message"]
    assert server.get("/v1/models/fake").status_code == 200


@pytest.mark.parametrize("id", ["ghost", "org/ghost"])
def test_l24_a_model_that_is_not_there_is_not_found(fake_server: FakeServer, id: str) -> None:
    with fake_server().client() as client, pytest.raises(openai.NotFoundError) as raised:
        client.models.delete(id)
    assert raised.value.code == "model_not_found"


@pytest.mark.parametrize("limit", [1, 15, 16])
def test_l24_short_answers_are_allowed(fake_server: FakeServer, limit: int) -> None:
    body = {"model": "fake", "input": "hi", "max_output_tokens": limit}
    assert fake_server().post("/v1/responses", body).json()["max_output_tokens"] == limit
