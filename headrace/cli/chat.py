"""`headrace chat`: a conversation in the terminal, with a running server or with one that it starts."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from headrace.config import Config, is_loopback, options
from headrace.errors import HeadraceError
from headrace.logs import one_line

HELP = "Type a message. /clear forgets the conversation, /exit (or Ctrl-D) leaves."
CONNECT_S = 3
CUT: dict[str | None, str] = {  # finish_reason → the notice below an incomplete answer
    "length": "(cut: the answer has reached its limit of tokens)",
    "content_filter": "(cut: a filter has ended the answer)",
    "interrupted": "(interrupted)",
    None: "(cut: the connection broke before the answer was complete)",
}


HERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # wildcard address → an address to connect to


class ChatError(HeadraceError):
    """The server cannot be reached, or answered with an error."""


def chat(config: Config, *, model: str | None, system: str | None, config_file: Path | None) -> int:
    """Chat until the input ends. Returns the exit code. Raises ChatError."""
    with _server(config, model, config_file) as (url, is_own):
        key = next(iter((*config.server.api_keys, *config.server.admin_keys)), "")
        served = [entry["id"] for entry in _get(url + "/v1/models", key)["data"]]
        if not served:
            raise ChatError(f"the server at {url} has no model")
        if model is not None and model not in served and not is_own:
            raise ChatError(f"the server at {url} has no model {model!r}; it has {', '.join(served)}")
        name: str = model if model in served and model is not None else served[0]
        print(f"{name} at {url}. {HELP}", file=sys.stderr)
        _converse(url, key, name, [{"role": "system", "content": system}] if system else [])
    return 0


def _converse(url: str, key: str, model: str, opening: list[dict[str, str]]) -> None:
    messages = list(opening)
    while (text := _read()) is not None and text != "/exit":
        if text == "/clear":
            messages = list(opening)
        elif text:
            messages.append({"role": "user", "content": text})
            try:
                answer = _answer(url, key, model, messages)
            except ChatError as exc:
                print(f"error: {exc.message}", file=sys.stderr)
                messages.pop()
                continue
            messages.append({"role": "assistant", "content": answer})


def _read() -> str | None:
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except (EOFError, KeyboardInterrupt):
        return None


def _answer(url: str, key: str, model: str, messages: list[dict[str, str]]) -> str:
    """Stream one answer to the terminal and return it. Ctrl-C ends it; a notice follows if it is cut."""
    parts: list[str] = []
    reason: str | None = None
    try:
        with _post(url, key, {"model": model, "messages": messages, "stream": True}) as response:
            for chunk in _chunks(response):
                if "error" in chunk:
                    raise ChatError(chunk["error"]["message"])
                for choice in chunk.get("choices", ()):
                    parts.append(choice["delta"].get("content") or "")
                    reason = choice.get("finish_reason") or reason
                    print(_shown(parts[-1]), end="", flush=True)
    except KeyboardInterrupt:
        reason = "interrupted"
    except ChatError:
        print()
        raise
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, AttributeError):
        reason = None
    print()
    if reason != "stop":
        print(CUT.get(reason, f"(the answer ended with {reason!r})"), file=sys.stderr)
    return "".join(parts)


def _chunks(response: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for line in response:
        name, _, data = line.decode().strip().partition(":")
        if name == "data" and data.strip() != "[DONE]":
            chunk = json.loads(data)
            if not isinstance(chunk, dict):
                raise ValueError("an event of another shape")
            yield chunk


def _shown(text: str) -> str:
    """Escape control characters other than line ends and tabs: they could change the terminal."""
    return "".join(sign if sign in "\n\t" else one_line(sign) for sign in text)


def _post(url: str, key: str, body: dict[str, Any]) -> Any:
    return _open(
        urllib.request.Request(url + "/v1/chat/completions", json.dumps(body).encode(), _headers(key))
    )


def _get(url: str, key: str) -> Any:
    with _open(urllib.request.Request(url, headers=_headers(key))) as response:
        return json.load(response)


def _headers(key: str) -> dict[str, str]:
    return {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}


def opener(url: str) -> urllib.request.OpenerDirector:
    """An opener that uses the system's proxy, but not for this machine."""
    host = urllib.parse.urlsplit(url).hostname or ""
    direct = [urllib.request.ProxyHandler({})] if is_loopback(host) else []
    return urllib.request.build_opener(*direct)


def _open(request: urllib.request.Request) -> Any:
    try:
        return opener(request.full_url).open(request)
    except urllib.error.HTTPError as exc:
        try:
            message = json.load(exc)["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = str(exc)
        raise ChatError(message) from exc
    except urllib.error.URLError as exc:
        raise ChatError(f"the server at {request.full_url} cannot be reached: {exc.reason}") from exc


@contextlib.contextmanager
def _server(config: Config, model: str | None, config_file: Path | None) -> Iterator[tuple[str, bool]]:
    """Find or start a server. Yields its URL, and whether it was started here and ends with the chat."""
    host = HERE.get(config.server.host, config.server.host)
    url = f"http://{f'[{host}]' if ':' in host else host}:{config.server.port}"
    if _is_headrace(url):
        yield url, False
        return
    print("no server answers; starting one", file=sys.stderr)
    command = [sys.executable, "-m", "headrace", "serve", "--host", "127.0.0.1", "--port", "0"]
    command += ["--log-level", "WARNING", *_engine_flags(config)]
    command += ["--config", str(config_file)] if config_file else []
    command += [model or config.models.default, *config.models.more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield _announced_url(process), True
        finally:
            process.terminate()


def _engine_flags(config: Config) -> Iterator[str]:
    """The flags that pass this process's engine and path settings on to the server that it starts."""
    for option in options():
        if option.section in ("engine", "paths"):
            value = getattr(getattr(config, option.section), option.name)
            if not option.is_switch:
                yield from (option.flag, str(int(value) if isinstance(value, int) else value))
            elif value != option.info.default:
                yield option.flag if value else option.flag.replace("--", "--no-", 1)


def _is_headrace(url: str) -> bool:
    try:
        with opener(url).open(url + "/ready", timeout=CONNECT_S) as response:
            return "status" in json.load(response)
    except (OSError, ValueError):
        return False


def _announced_url(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip().startswith("url "):
            return line.split()[1].removesuffix("/v1")
    raise ChatError("the server did not start; its output is above")
