"""Web pages: those of others, which get nowhere, and our own, which need no other host."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import headrace
from tests.cli.process import Serving
from tests.conftest import FakeServer
from tests.security.browsers import BROWSERS, LOOKS, Browser
from tests.security.raw import CHAT, QUESTION, WEBSOCKET, gateway

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
HTML = {"Accept": BROWSER}
PAGES = ["/", "/docs", "/redoc"]
FOLDER = Path(headrace.__file__).parent / "page"


def conversations(gate: Serving) -> list[Any]:
    found: list[Any] = gate.http.get("/v1/conversations").json()["data"]
    return found


@pytest.mark.parametrize("browser", BROWSERS)
@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_a_page_of_another_site_creates_nothing(
    gate: Serving, tmp_path: Path, browser: Browser, content_type: str | None
) -> None:
    lines, before = gate.log.read_text().count("\n"), conversations(gate)
    with browser(gate, tmp_path) as page:
        page.post("/v1/conversations", "{}", content_type)
        page.post(CHAT, QUESTION.decode()[:-1] + ', "store": true}', content_type)
    assert conversations(gate) == before
    assert gate.http.get("/v1/chat/completions").json()["data"] == []
    logged = "\n".join(gate.log.read_text().split("\n")[lines:])
    assert len(re.findall(r"POST \S+ 403 ", logged)) == 2, "both have come here, and were refused"


@pytest.mark.parametrize("browser", BROWSERS)
def test_a_page_of_another_site_opens_no_websocket(gate: Serving, tmp_path: Path, browser: Browser) -> None:
    with browser(gate, tmp_path) as page:
        assert not page.opens("/v1/responses")


@pytest.mark.parametrize("browser", BROWSERS)
def test_a_page_whose_name_was_made_to_point_here_reads_nothing(
    gate: Serving, tmp_path: Path, browser: Browser
) -> None:
    before = conversations(gate)
    with browser(gate, tmp_path) as page:
        assert page.rebound("/v1/models", None) == 403
        assert page.rebound("/v1/conversations", None) == 403
        assert page.rebound("/v1/conversations", "{}") == 403
        assert page.rebound(CHAT, QUESTION.decode()) == 403
    assert conversations(gate) == before


@pytest.mark.parametrize("browser", BROWSERS)
def test_our_own_page_may_do_all_that(gate: Serving, tmp_path: Path, browser: Browser) -> None:
    with browser(gate, tmp_path) as page:
        assert page.is_ours(CHAT, QUESTION.decode()) == (200, True)


@pytest.mark.parametrize("browser", BROWSERS)
def test_the_same_page_gets_in_where_it_is_named(tmp_path: Path, browser: Browser) -> None:
    """The tests above would notice a door that is open."""
    allowed = "[server]\ncors_origins = ['*']\nallowed_hosts = ['evil.example']\n"
    with gateway(tmp_path, config=allowed) as gate, browser(gate, tmp_path / "browser") as page:
        assert page.opens("/v1/responses")
        assert page.rebound("/v1/models", None) == 200
        assert page.rebound("/v1/conversations", "{}") == 200


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_documentation_needs_no_other_host(
    gate: Serving, tmp_path: Path, path: str, look: Callable[[str, Any, Path], set[str]]
) -> None:
    urls = look(gate.url + path, gate.http, tmp_path)
    names = {urlsplit(url).path for url in urls}
    script = "swagger-ui-bundle.js" if path == "/docs" else "redoc.standalone.js"
    assert f"/docs/assets/{script}" in names
    if look is not LOOKS[0]:
        assert "/openapi.json" in names, "the page has read what it shows"
    assert {urlsplit(url).netloc for url in urls} == {urlsplit(gate.url).netloc}


@pytest.mark.parametrize("path", PAGES)
def test_pages_name_no_other_host_and_may_load_from_none(gate: Serving, path: str) -> None:
    answer = gate.http.get(path, headers=HTML)
    assert answer.headers["content-type"].startswith("text/html")
    named = set(re.findall(r"""(?:https?:)?//[^\s"'<>]+""", answer.text))
    assert {url for url in named if not url.startswith(gate.url)} == set()
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert "'unsafe-inline'" not in policy["script-src"]
    sources = set(" ".join(policy.values()).split()) - {"data:", "blob:"}
    assert all(re.fullmatch(r"'(none|self|unsafe-inline|sha256-[\w+/=]+)'", source) for source in sources)
    assert gate.http.head(path, headers=HTML).status_code == 200


@pytest.mark.parametrize("accept", ["*/*", "text/plain"])
def test_the_root_says_to_ollamas_clients_what_they_look_for(gate: Serving, accept: str) -> None:
    answer = gate.http.get("/", headers={"Accept": accept})
    assert (answer.text, answer.headers["vary"]) == ("Ollama is running", "Accept")
    assert answer.headers["content-type"].startswith("text/plain")
    assert gate.http.head("/", headers={"Accept": accept}).status_code == 200


def test_the_root_tells_programs_what_is_here(gate: Serving) -> None:
    answer = gate.http.get("/", headers={"Accept": "application/json"})
    body = answer.json()
    assert (body["name"], bool(body["version"])) == ("headrace", True)
    assert {gate.http.get(path).status_code for path in body["links"].values()} == {200}
    assert answer.headers["vary"] == "Accept"


def test_where_the_page_is_off_people_are_told_the_same(fake_server: FakeServer) -> None:
    from headrace.config import Config

    server = fake_server(config=Config.model_validate({"server": {"page": False}}))
    assert server.get("/", HTML).json()["name"] == "headrace"


def test_the_root_tells_strangers_no_models(fake_server: FakeServer) -> None:
    from headrace.config import Config

    with_keys = fake_server(config=Config.model_validate({"server": {"api_keys": ["k"]}}))
    assert "fake" not in with_keys.get("/", HTML).text
    assert with_keys.get("/v1/models").status_code == 401


def test_all_files_of_the_page_are_served_with_their_types(gate: Serving) -> None:
    """A browser runs no script that is sent with another type."""
    page = gate.http.get("/", headers=HTML).text
    named = set(re.findall(r'(?:src|href)="(page/[^"]+)"', page)) | set(
        re.findall(r'"\./(page/[^"]+)"', page)
    )
    modules = {f"page/{file.name}" for file in FOLDER.glob("*.js")}
    assert {"page/app.js", "page/vendor/preact.mjs"} <= named
    for path in named | modules:
        answer = gate.http.get("/" + path)
        kind = {"js": "javascript", "mjs": "javascript", "css": "text/css", "svg": "image/svg+xml"}
        assert answer.status_code == 200, path
        assert kind[path.rsplit(".", 1)[1]] in answer.headers["content-type"], path


def test_the_libraries_of_the_page_are_those_of_the_table() -> None:
    table = json.loads((FOLDER / "vendor" / "packages.json").read_text())
    files = {file["name"]: file["sha256"] for package in table for file in package["files"]}
    there = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in (FOLDER / "vendor").iterdir()
    }
    assert there.keys() - files.keys() == {"packages.json", "LICENSES.txt"}
    assert {name: there[name] for name in files} == files
    licences = (FOLDER / "vendor" / "LICENSES.txt").read_text()
    assert all(f"{package['name']} {package['version']}" in licences for package in table)


@pytest.mark.parametrize(
    "path",
    ["../../core.py", "%2e%2e/core.py", "..%2f__init__.py", "/etc/passwd", "", "nothing.js", "a" * 300],
)
def test_nothing_else_is_served_as_an_asset(gate: Serving, path: str) -> None:
    assert gate.http.get(f"/docs/assets/{path}").status_code == 404
    assert gate.http.post(f"/docs/assets/{path}").status_code in (404, 405)


def test_assets_are_fetched_once(gate: Serving) -> None:
    first = gate.http.get("/docs/assets/swagger-ui.css")
    assert first.headers["content-type"].startswith("text/css")
    again = gate.http.get("/docs/assets/swagger-ui.css", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_no_websocket_is_at_a_page(gate: Serving) -> None:
    for path in (*PAGES, "/docs/assets/swagger-ui.css"):
        assert gate.http.get(path, headers=WEBSOCKET).status_code >= 400
