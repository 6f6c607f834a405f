"""Talks to a running server, in the standard library's HTTP."""

from __future__ import annotations

import argparse
import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

from headrace.config import Config, is_loopback
from headrace.errors import HeadraceError

CONNECT_S = 3
HERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # wildcard address → an address to connect to


class NoAnswer(HeadraceError):
    """The server cannot be reached, or answered with an error."""


class Connection:
    """Requests to one server. `url`: without a path."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self._headers = {"Content-Type": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"

    def get(self, path: str) -> Any:
        """The JSON of a resource. Raises NoAnswer."""
        with self.open("GET", path) as response:
            return json.load(response)

    def all(self, path: str) -> Iterator[Any]:
        """The entries of a list that comes in pages. Raises NoAnswer."""
        after = ""
        while True:
            page = self.get(f"{path}?limit=100{after}")
            yield from page["data"]
            if not page.get("has_more"):
                return
            after = f"&after={page['last_id']}"

    def models(self) -> list[str]:
        """The ids of the models that write text. Raises NoAnswer."""
        listed = self.get("/v1/models")["data"]
        return [entry["id"] for entry in listed if entry.get("kind", "generative") == "generative"]

    def post(self, path: str, body: dict[str, Any]) -> Any:
        with self.open("POST", path, body) as response:
            return json.load(response)

    def open(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, timeout_s: float | None = None
    ) -> http.client.HTTPResponse:
        """The response, to be read and closed. Raises NoAnswer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, self._headers, method=method)
        try:
            response: http.client.HTTPResponse = opener(self.url).open(request, timeout=timeout_s)
        except urllib.error.HTTPError as exc:
            hint = " (--key sets the key)" if exc.code in (401, 403) else ""
            raise NoAnswer(_message(exc) + hint) from exc
        except (OSError, http.client.HTTPException) as exc:
            reason = exc.reason if isinstance(exc, urllib.error.URLError) else exc
            raise NoAnswer(f"the server at {self.url} cannot be reached: {reason}") from exc
        return response


def connect(arguments: argparse.Namespace, config: Config, url: str | None = None) -> Connection:
    """A connection to `url`, else to the server that `arguments` name, else to the one that `config` is of.
    Without a key in `arguments`, the configuration's first is sent, an administrator's if there is one.
    """
    server = config.server
    url = url or arguments.url
    if url is None:
        url = server.url_at(HERE.get(server.host, server.host), server.port)
    key = arguments.key or next(iter((*server.admin_keys, *server.api_keys)), "")
    return Connection(url.rstrip("/").removesuffix("/v1"), key)


def _message(exc: urllib.error.HTTPError) -> str:
    with exc:
        try:
            return str(json.load(exc)["error"]["message"])
        except (ValueError, KeyError, TypeError):
            return str(exc)


def opener(url: str) -> urllib.request.OpenerDirector:
    """An opener that uses the system's proxy, but not for this machine."""
    host = urllib.parse.urlsplit(url).hostname or ""
    direct = [urllib.request.ProxyHandler({})] if is_loopback(host) else []
    return urllib.request.build_opener(*direct)


def is_headrace(url: str) -> bool:
    try:
        with opener(url).open(url + "/ready", timeout=CONNECT_S) as response:
            return "status" in json.load(response)
    except (OSError, ValueError):
        return False
