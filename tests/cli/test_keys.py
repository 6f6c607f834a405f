"""`headrace keys`, `usage` and `top`, beside a server that runs."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from headrace.cli.top import Change, engines, keys, read, targets, view
from tests.cli.process import headrace, serving

FAKE = """
[providers.far]
kind = "fake"
prefix = false
models = ["fake"]

[prices."far:fake"]
prompt = 1000
completion = 1000
"""


def made(folder: Path, *options: str) -> tuple[str, str]:
    """A new key and its id."""
    done = headrace("keys", "create", "--name", "laptop", *options, cwd=folder, XDG_DATA_HOME=str(folder))
    assert done.returncode == 0, done.stderr
    assert "shown once" in done.stderr
    return done.stdout.strip(), done.stderr.split()[0]


def test_a_key_from_the_terminal_opens_a_running_server_and_is_taken_back(tmp_path: Path) -> None:
    (tmp_path / "headrace.toml").write_text(FAKE)
    data = {"XDG_DATA_HOME": str(tmp_path), "HEADRACE_MODEL": ""}
    with serving("--require-auth", cwd=tmp_path, **data) as server:
        body: dict[str, object] = {"model": "fake", "prompt": "x"}
        assert server.post(body).status_code == 401
        key, id = made(tmp_path, "--owner", "ann", "--requests-per-minute", "2", "--expires-in", "1d")
        headers = {"Authorization": f"Bearer {key}"}
        assert [server.post(body, headers).status_code for _ in range(3)] == [200, 200, 429]
        listed = headrace("keys", "list", cwd=tmp_path, **data).stdout
        assert id in listed
        assert "2 requests per minute" in listed
        assert key not in listed
        usage = server.http.get("/v1/usage", headers=headers).json()["data"][0]["results"][0]
        assert (usage["num_model_requests"], usage["provider"]) == (2, "far")
        shown = headrace("usage", "--json", cwd=tmp_path, **data)
        (row,) = json.loads(shown.stdout)
        assert (row["key"], row["requests"], row["cost"]) == (id, 2, usage["cost"])
        rotated = headrace("keys", "rotate", id, cwd=tmp_path, **data)
        fresh = {"Authorization": f"Bearer {rotated.stdout.strip()}"}
        assert server.post(body, fresh).status_code == 429  # the same key, which has used its minute up
        assert headrace("keys", "revoke", id, cwd=tmp_path, **data).returncode == 0
        top = headrace("top", "--once", "--every", "0.2", "--url", server.url, "--key", made(tmp_path)[0],
                       cwd=tmp_path, **data)  # fmt: skip
        assert top.returncode == 0, top.stderr
        assert "far" in top.stdout
        assert f"laptop ({id})" in top.stdout, "a key is shown by its name"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("keys", "create"), "--name"),
        (("keys", "create", "--name", "n", "--tokens-per-minute", "0"), "positive whole number"),
        (("keys", "create", "--name", ""), "name"),
        (("keys", "create", "--name", "a\x1b[2J"), "name"),
        (("keys", "create", "--name", "n", "--owner", "\n"), "owner"),
        (("keys", "create", "--name", "n", "--allow-model", "x" * 101), "models"),
        (("keys", "create", "--name", "n", "--total-cost", "nan"), "cost"),
        (("keys", "create", "--name", "n", "--total-cost", "inf"), "cost"),
        (("keys", "create", "--name", "n", "--total-cost", "-1"), "cost"),
        (("keys", "create", "--name", "n", "--total-cost", "1e-20"), "cost"),
        (("keys", "create", "--name", "  "), "name"),
        (("keys", "create", "--name", "n", "--expires-in", "soon"), "12h, 30d or 8w"),
        (("keys", "create", "--name", "\udcff"), "no UTF-8"),
        (("keys", "revoke", "\udcff"), "no UTF-8"),
        (("keys", "revoke", "key_none"), "No key with id"),
        (("keys", "rotate", "key_none"), "No key with id"),
        (("usage", "--days", "0"), "positive whole number"),
        (("usage", "--days", "9" * 20), "positive whole number"),
        (("top", "--every", "inf"), "positive number"),
        (("top", "--every", "nan"), "positive number"),
        (("steer", "train-sae", "--epochs", "-1"), "positive number"),
        (("steer", "train-sae", "--features", "0"), "positive whole number"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = headrace(*arguments, cwd=tmp_path, XDG_DATA_HOME=str(tmp_path))
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_terminal_without_unicode_shows_escapes(tmp_path: Path) -> None:
    key, _ = made(tmp_path, "--owner", "Zoë")
    data = {"XDG_DATA_HOME": str(tmp_path), "PYTHONIOENCODING": "ascii"}
    listed = headrace("keys", "list", cwd=tmp_path, **data)
    assert "Zo\\xeb" in listed.stdout, listed.stderr
    assert key not in listed.stdout


def metrics(requests: int, tokens: int, fast: int, slow: int) -> str:
    first = 'vllm:time_to_first_token_seconds_bucket{model_name="m",le='
    return f"""
vllm:num_requests_running{{model_name="m"}} 3
vllm:num_requests_waiting{{model_name="m"}} 7
vllm:kv_cache_usage_perc{{model_name="m"}} 0.25
vllm:generation_tokens_total{{model_name="m"}} {tokens}
vllm:prefix_cache_hits_total{{model_name="m"}} {tokens}
vllm:prefix_cache_queries_total{{model_name="m"}} {tokens * 2}
{first}"0.1"}} {fast}
{first}"2.0"}} {fast + slow}
{first}"+Inf"}} {fast + slow}
headrace_requests_total{{provider="p",model="m",status="200"}} {requests}
headrace_requests_total{{provider="p",model="m",status="503"}} {requests}
headrace_key_requests_total{{key="k",status="429"}} {requests}
"""


@pytest.mark.parametrize("columns", [80, 120])
def test_top_leaves_room_for_numbers_beside_long_names(columns: int) -> None:
    name = "a key of the nightly evaluation whose name is long (key_0123456789abcdef01234567)"
    info = f'headrace_key_info{{key="k",name="{name}"}} 1\n'
    before, after = (read(f'{info}headrace_key_requests_total{{key="k"}} {at}\n', at) for at in (0.0, 10.0))
    console = Console(width=columns, file=io.StringIO(), record=True)
    console.print(view("http://127.0.0.1:8000", Change(before, after)))
    lines = console.export_text().splitlines()
    assert "active requests" in lines[0]
    assert ":" in lines[0][-10:], "the time is on the first line"
    (row,) = (line for line in lines if "a key of" in line)
    assert row.split()[-3:] == ["1.0", "0.0", "0"]


def test_top_shows_rates_between_two_scrapes() -> None:
    change = Change(read(metrics(10, 100, 50, 0), 0.0), read(metrics(30, 300, 60, 90), 10.0))
    (engine,) = engines(change)
    assert engine == ("m", "3", "7", "25 %", "0", "20", "50 %", "-", "≤ 2 s", "≤ 2 s", "-")
    (target,) = targets(change)
    assert target[:4] == ("p", "m", "4.0", "2.0")
    assert keys(change) == [("k", "2.0", "2.0", "0")]
