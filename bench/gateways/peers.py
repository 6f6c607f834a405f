"""The gateways: what each is, how it is configured and started, and how it is asked."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.gateways.install import ROOT, NotAvailable, from_npm, from_pypi, version_of
from bench.gateways.load import Address
from bench.gateways.upstream import MODEL
from bench.machine import free_port
from headrace import __version__

LITELLM = "litellm[proxy]>=1.106,<1.110"
PORTKEY = "@portkey-ai/gateway@1.15.2"
# With a later one every stream of Portkey's is a 500, "immutable" (its issue 1389).
PORTKEY_NEEDS = {"@hono/node-server": "1.14.1"}
KEY = "sk-callers-key-of-the-benchmark"
UPSTREAM_KEY = "sk-upstreams-key-of-the-benchmark"
BEARER = {"Authorization": f"Bearer {KEY}"}
METERED = 'require_auth = true\nlog_format = "json"'
LIMITS = ("requests-per-minute", "tokens-per-minute", "concurrent-requests", "total-tokens")


@dataclass(frozen=True, slots=True)
class Peer:
    """A gateway that is ready to be started on its address."""

    name: str
    version: str
    command: tuple[str, ...]
    address: Address
    environment: Mapping[str, str] = field(default_factory=dict)


Prepare = Callable[[str, Path, int], Peer]  # its name, a folder for its files, the upstream's port


def headrace(name: str, folder: Path, upstream: int) -> Peer:
    return _headrace(name, folder, upstream, f"upstream:{MODEL}")


def headrace_route(name: str, folder: Path, upstream: int) -> Peer:
    """The same through an alias, with what routes add: attempts, breaker, fallback."""
    return _headrace(name, folder, upstream, "alias")


def headrace_metered(name: str, folder: Path, upstream: int) -> Peer:
    """The same with a key of the database, all of whose limits count but are never reached, with usage and
    JSON logs. Metrics are always on.
    """
    peer = _headrace(name, folder, upstream, f"upstream:{MODEL}")
    file, data = folder / f"{name}.toml", folder / "metered"
    text = file.read_text(encoding="utf-8").replace(f'api_keys = ["{KEY}"]', METERED)
    file.write_text(f'{text}\n[paths]\ndata = "{data}"\n', encoding="utf-8")
    program = (sys.executable, "-m", "headrace", "keys", "create", "--config", str(file), "--name", "bench")
    limits = [word for limit in LIMITS for word in (f"--{limit}", "1000000000")]
    made = subprocess.run([*program, *limits], check=True, capture_output=True, text=True, cwd=ROOT)
    key = re.search(r"sk-hr-[\w-]+", made.stdout)
    assert key is not None, made.stdout
    return replace(peer, address=replace(peer.address, headers={"Authorization": f"Bearer {key[0]}"}))


def _headrace(name: str, folder: Path, upstream: int, model: str) -> Peer:
    port, file = free_port(), folder / f"{name}.toml"
    file.write_text(
        f"""
[server]
port = {port}
api_keys = ["{KEY}"]

[models]
default = ""

[providers.upstream]
kind = "openai"
base_url = "http://127.0.0.1:{upstream}/v1"
api_key = "{UPSTREAM_KEY}"

[routes.alias]
targets = ["upstream:{MODEL}"]
""",
        encoding="utf-8",
    )
    command = (sys.executable, "-m", "headrace", "serve", "--config", str(file))
    return Peer(name, __version__, command, Address(port, model, BEARER), {"PYTHONPATH": str(ROOT)})


def litellm(name: str, folder: Path, upstream: int) -> Peer:
    python = from_pypi(LITELLM)
    port, file = free_port(), folder / "litellm.json"  # JSON is YAML
    params = {
        "model": f"openai/{MODEL}",
        "api_base": f"http://127.0.0.1:{upstream}/v1",
        "api_key": UPSTREAM_KEY,
    }
    config = {
        "model_list": [{"model_name": MODEL, "litellm_params": params}],
        "general_settings": {"master_key": KEY},
    }
    file.write_text(json.dumps(config), encoding="utf-8")
    command = (
        str(python.with_name("litellm")), "--config", str(file), "--host", "127.0.0.1", "--port", str(port),
        "--num_workers", "1",
    )  # fmt: skip
    # its own list of prices, not the newest from the network; and the log level that it advises
    environment = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "LITELLM_TELEMETRY": "False",
    }  # fmt: skip
    return Peer(name, version_of("litellm", python), command, Address(port, MODEL, BEARER), environment)


def portkey(name: str, folder: Path, upstream: int) -> Peer:
    """It has no configuration and no keys of its own: every request says where to."""
    port, package = free_port(), from_npm(PORTKEY, PORTKEY_NEEDS) / "@portkey-ai" / "gateway"
    if (node := shutil.which("node")) is None:
        raise NotAvailable("node is not installed")
    command = (node, str(package / "build" / "start-server.js"), f"--port={port}", "--headless")
    headers = {
        "Authorization": f"Bearer {UPSTREAM_KEY}",
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": f"http://127.0.0.1:{upstream}/v1",
    }
    environment = {"NODE_ENV": "production"}
    return Peer(name, PORTKEY.rsplit("@", 1)[1], command, Address(port, MODEL, headers), environment)


def nginx(name: str, folder: Path, upstream: int) -> Peer:
    """The raw floor: it relays bytes and knows nothing of them."""
    binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if binary is None:
        raise NotAvailable("nginx is not installed (Debian: apt-get install nginx-light)")
    told = subprocess.run([binary, "-v"], capture_output=True, text=True, check=False).stderr
    found = re.search(r"nginx/([\d.]+)", told)
    port, file = free_port(), folder / "nginx.conf"
    file.write_text(_NGINX.format(folder=folder, port=port, upstream=upstream), encoding="utf-8")
    command = (binary, "-c", str(file), "-p", str(folder), "-e", str(folder / "nginx.error.log"))
    return Peer(name, found[1] if found else "?", command, Address(port, MODEL, BEARER))


_NGINX = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 10000000;
    client_body_temp_path {folder}/nginx-body;
    proxy_temp_path {folder}/nginx-proxy;
    fastcgi_temp_path {folder}/nginx-fastcgi;
    uwsgi_temp_path {folder}/nginx-uwsgi;
    scgi_temp_path {folder}/nginx-scgi;
    upstream provider {{
        server 127.0.0.1:{upstream};
        keepalive 256;
        keepalive_requests 10000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        tcp_nodelay on;
        location / {{
            proxy_pass http://provider;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""

KNOWN: dict[str, Prepare] = {
    "nginx": nginx,
    "headrace": headrace,
    "headrace-route": headrace_route,
    "headrace-metered": headrace_metered,
    "portkey": portkey,
    "litellm": litellm,
}
DEFAULT = ("nginx", "headrace", "portkey", "litellm")
