"""Who may use the admin API."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from headrace import logs
from headrace.api.authentication import Admin
from headrace.app import create_app
from headrace.backends.fake import FakeBackend
from headrace.config import Config
from tests.serving import Served, serving

PATH = "/v1/admin/probe"


async def probe(caller: Admin) -> str:
    return caller.id


@contextmanager
def server(**options: object) -> Iterator[Served]:
    app = create_app(Config.model_validate({"server": options}), [FakeBackend(["x"])])
    app.add_api_route(PATH, probe)
    with serving(app) as served:
        yield served


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_an_admin_key_opens_the_admin_api_and_all_else() -> None:
    with server(api_keys=["caller"], admin_keys=["boss"]) as served:
        assert served.get(PATH, bearer("boss")).status_code == 200
        assert served.get(PATH, {"x-api-key": "boss"}).status_code == 200
        assert served.get("/v1/models", bearer("boss")).status_code == 200
        assert served.get("/v1/models", bearer("caller")).status_code == 200


@pytest.mark.parametrize(("key", "status"), [("caller", 403), ("wrong", 401), ("sk-hr-x", 401)])
def test_other_keys_do_not(key: str, status: int) -> None:
    with server(api_keys=["caller"], admin_keys=["boss"]) as served:
        refused = served.get(PATH, bearer(key))
    assert refused.status_code == status
    assert refused.json()["error"]["code"] == ("admin_key_required" if status == 403 else "invalid_api_key")


def test_with_admin_keys_alone_every_caller_needs_a_key() -> None:
    with server(admin_keys=["boss"]) as served:
        assert served.get("/v1/models").status_code == 401
        assert served.get("/v1/models", bearer("boss")).status_code == 200


def test_where_callers_have_keys_and_nobody_is_an_administrator_nobody_may() -> None:
    with server(api_keys=["caller"]) as served:
        refused = served.get(PATH, bearer("caller"))
    assert refused.status_code == 403
    assert "server.admin_keys" in refused.json()["error"]["message"]


def test_without_keys_callers_on_this_machine_may_unless_a_proxy_forwards_them() -> None:
    with server() as served:
        assert served.get(PATH).status_code == 200
        for name in ("Forwarded", "X-Forwarded-For", "X-Real-IP"):
            assert served.get(PATH, {name: "203.0.113.7"}).status_code == 403


def test_without_keys_on_an_address_that_others_reach_nobody_may() -> None:
    with server(host="0.0.0.0", no_auth=True) as served:
        assert served.get(PATH).status_code == 403
        assert served.get("/v1/models").status_code == 200


def test_administrators_read_the_last_lines_of_the_log() -> None:
    recent = logs.Recent(most=3)
    for number in range(5):
        recent.handle(logging.LogRecord("headrace.test", logging.INFO, "", 0, "line %d\n", (number,), None))
    assert [(line.id, line.message) for line in recent.after(3)] == [(4, "line 3\\n"), (5, "line 4\\n")]
    assert [line.id for line in recent.after(0)] == [3, 4, 5]
    with server(api_keys=["caller"], admin_keys=["boss"]) as served:
        assert served.get("/v1/admin/logs", bearer("caller")).status_code == 403
        logs.RECENT.handle(
            logging.LogRecord("headrace.test", logging.WARNING, "", 0, "the last line", (), None)
        )
        last = served.get("/v1/admin/logs", bearer("boss")).json()["data"][-1]
        assert (last["level"], last["logger"], last["message"]) == (
            "WARNING", "headrace.test", "the last line",
        )  # fmt: skip
        assert served.get(f"/v1/admin/logs?after={last['id']}", bearer("boss")).json()["data"] == []
        assert served.get("/v1/admin/logs?after=x", bearer("boss")).status_code == 400
        home = served.get("/", {"Accept": "application/json"}).json()["links"]
        assert {"logs", "keys", "usage"} <= home.keys()
    with server() as served:
        assert "keys" not in served.get("/", {"Accept": "application/json"}).json()["links"]
