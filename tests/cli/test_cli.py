from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name

import pytest

from docgen.configuration import reference
from headrace import __version__
from headrace.backends.fake import FakeBackend
from headrace.cli import main
from headrace.cli.arguments import parsed
from headrace.cli.check import as_toml
from headrace.cli.terminal import ProgressBar, print_table
from headrace.config.kinds import REMOTE
from headrace.models.catalog import DEFAULT_MODEL, Model
from headrace.models.model import write_manifest
from tests.cli.process import ROOT, environment, headrace
from tests.conftest import FakeServer
from tests.upstream import Answer, answer, scripted

HEAVY = ("openvino", "numpy", "gguf", "tokenizers", "fastapi", "uvicorn", "jinja2", "sqlalchemy")
ENGINE = (
    "openvino", "numpy", "gguf", "tokenizers", "jinja2", "llguidance", "sqlalchemy", "torch", "transformers",
)  # fmt: skip


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No headrace.toml, no variables."""
    monkeypatch.chdir(tmp_path)
    for name in set(os.environ) - set(environment()):
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    "code",
    [
        "import headrace",
        "import contextlib as c, headrace.cli\nwith c.suppress(SystemExit): headrace.cli.main(['--help'])",
        "import headrace.cli; headrace.cli.main(['version'])",
        "import headrace.cli; headrace.cli.main(['check-config'])",
        "import headrace.config",
    ],
)
def test_no_engine_library_is_loaded_for_words(code: str, tmp_path: Path) -> None:
    check = f"{code}\nimport sys; loaded = set(sys.modules) & set({HEAVY!r}); assert not loaded, loaded"
    command = [sys.executable, "-c", check]
    subprocess.run(command, cwd=tmp_path, env=environment(), check=True, capture_output=True)


@pytest.mark.parametrize("line", [
    "serve", "pull x", "list", "ls", "run x", "show x", "ps", "load x", "stop x", "rm x", "chat",
    "check-config", "keys create --name x", "keys list", "keys rotate x", "keys revoke x", "usage", "top",
    "db verify", "db migrate", "db prune", "db export", "db import", "steer features x --token x", "version",
    "steer train-vector --positive x --negative x --layer 1 --name x", "steer train-sae --layer 1 --name x",
])  # fmt: skip
def test_each_command_names_a_function(line: str) -> None:
    assert callable(resolve_name(f"headrace.cli{parsed(line.split()).run}"))


GATEWAY = f"""
import sys, headrace.cli.serve
from headrace.assembly import build_served
from headrace.config import Config
kinds = "openai", "cerebras", "anthropic", "ollama"
providers = {{kind: {{"kind": kind, "api_key": "k"}} for kind in kinds}}
config = Config(models={{"default": ""}}, providers=providers)
backends = build_served(config, [])
assert len(backends) == 1 + len(kinds)  # one embeds, from its first use on
assert not set(sys.modules) & set({ENGINE!r})
"""


def test_gateway_alone_loads_no_engine_library(tmp_path: Path) -> None:
    command = [sys.executable, "-c", GATEWAY]
    subprocess.run(command, cwd=tmp_path, env=environment(), check=True, capture_output=True)


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["serve"],
        ["pull"],
        ["list"],
        ["rm"],
        ["ps"],
        ["load"],
        ["stop"],
        ["show"],
        ["run"],
        ["top"],
        ["usage"],
        ["keys", "create"],
        ["chat"],
        ["check-config"],
        ["db"],
        ["db", "export"],
        ["version"],
        ["steer"],
        ["steer", "train-vector"],
        ["steer", "train-sae"],
        ["steer", "features"],
    ],
)
def test_every_command_explains_itself(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main([*command, "--help"])
    assert raised.value.code == 0
    printed = capsys.readouterr().out
    assert "usage: headrace" in printed
    assert "](" not in printed, "links of Markdown are not for terminals"
    usage = printed.partition("\n\n")[0]
    assert len(usage.splitlines()) <= 6, "a person reads what the command does, not the server's options"


def test_help_is_a_word_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["help"])
    assert raised.value.code == 0
    assert "commands:" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["fly"], ["serve", "--warp"], ["pull"], ["rm"]])
def test_wrong_arguments_exit_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["serve", "--model", "qwen3-0.6b"], "--model"),
        (["serve", "--model-b=a=engine"], "--model-b"),
        (["list", "--conf", "headrace.toml"], "--conf"),
        (["chat", "--sys", "Be brief."], "--sys"),
        (["db", "verify", "--database", "sqlite:///x"], "--database"),
    ],
)
def test_options_are_not_abbreviated(
    arguments: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2
    assert f"unknown: {name}\n" in capsys.readouterr().err


def test_version_names_the_runtime(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"headrace {__version__} (Python ")
    assert "OpenVINO" in out


def test_empty_cache_is_listed_as_such(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["list", "--cache", str(tmp_path)]) == 0
    assert f"headrace pull {DEFAULT_MODEL}" in capsys.readouterr().out


def test_list_shows_models_and_their_sampling(
    default_model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = str(default_model.folder.parents[1])
    assert main(["pull", DEFAULT_MODEL, "--cache", cache]) == 0
    assert "is ready in" in capsys.readouterr().out
    assert main(["list", "--cache", cache]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(DEFAULT_MODEL))
    for text in ("llama", "Q4_1", "8192", "147 MB", "temperature 0.2, top_p 0.9"):
        assert text in row
    assert main(["list", "--cache", cache, "--generation-config", "none"]) == 0
    assert "temperature" not in capsys.readouterr().out


def test_removing_a_missing_model_is_an_error(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["rm", "ghost", "--cache", str(tmp_path)]) == 2
    assert "no model 'ghost'" in capsys.readouterr().err


def test_removed_model_is_gone(
    default_model: Model, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "models" / "m"
    folder.mkdir(parents=True)
    write_manifest(replace(default_model, name="m"), folder, None)
    assert main(["rm", "m", "--cache", str(tmp_path)]) == 0
    assert not folder.exists()
    main(["list", "--cache", str(tmp_path)])
    assert "no models yet" in capsys.readouterr().out


def test_configuration_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text() == reference(), "run `make docs`"


def test_check_config_tells_values_and_sources(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "headrace.toml").write_text("[engine]\nmax_queue = 5\n")
    monkeypatch.setenv("PORT", "9000")
    monkeypatch.setenv("ALLOWED_API_KEYS", "very-secret,other")
    assert main(["check-config", "--log-level", "debug"]) == 0
    out = capsys.readouterr().out
    for text in (
        "max_queue = 5  # headrace.toml",
        "port = 9000  # environment PORT",
        'log_level = "DEBUG"  # flag',
        'api_keys = ["(secret)", "(secret)"]  # environment ALLOWED_API_KEYS',
        'host = "127.0.0.1"  # default',
    ):
        assert f"\n{text}\n" in out
    assert "very-secret" not in out


TABLES = """
[models]
default = ""
[providers.up]
kind = "openai"
base_url = "URL/v1"
api_key = "very-secret"
headers = { X-Team = "also-secret" }
[routes.fast]
targets = ["up:m", { target = "up:n", weight = 2 }]
"""


def test_check_config_tells_providers_and_routes_without_secrets(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "headrace.toml").write_text(TABLES.replace("URL", "http://127.0.0.1:9"))  # a closed port
    assert main(["check-config"]) == 0
    out = capsys.readouterr().out
    assert "[providers.up]  # headrace.toml" in out
    assert "[routes.fast]  # headrace.toml" in out
    read = tomllib.loads(out)
    assert read["providers"]["up"]["base_url"] == "http://127.0.0.1:9/v1"
    assert read["providers"]["up"]["api_key"] == "(secret)"
    assert read["providers"]["up"]["headers"] == {"X-Team": "(secret)"}
    assert read["routes"]["fast"]["targets"] == ["up:m", {"target": "up:n", "weight": 2.0}]
    assert "very-secret" not in out
    assert "also-secret" not in out


@pytest.mark.parametrize(
    "provider",
    [
        *({"kind": kind} for kind in REMOTE),
        {"kind": "llamacpp", "path": "m.gguf"},
        {"kind": "ollama", "keep_alive": "5m"},
        {"kind": "openai", "roles": "plain", "replicas": ["http://127.0.0.1:9/v1"]},
        {"kind": "anthropic", "headers": {'X-"Team"': "ü\u2028"}, "models": ["a", "b"]},
    ],
    ids=str,
)
def test_what_check_config_prints_can_be_read_back(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, provider: dict[str, object]
) -> None:
    members = {"base_url": "http://127.0.0.1:9", **provider}
    if "path" in provider or "replicas" in provider:
        del members["base_url"]
    lines = ["[models]", "default = ''", "[providers.up]"]
    lines += [f"{name} = {as_toml(value)}" for name, value in members.items()]
    printed = []
    for _ in range(2):
        (tmp_path / "headrace.toml").write_text("\n".join(lines), encoding="utf-8")
        assert main(["check-config"]) == 0
        lines = capsys.readouterr().out.splitlines()
        printed.append(tomllib.loads("\n".join(lines)))
    assert printed[0] == printed[1]


def test_check_config_online_tells_what_each_provider_has(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, fake_server: FakeServer
) -> None:
    fakes = [FakeBackend(["x"], id=f"m{number}") for number in range(7)]
    text = TABLES.replace("URL", fake_server(*fakes).url)
    (tmp_path / "headrace.toml").write_text(text)
    assert main(["check-config", "--online"]) == 0
    report = "up: answered, with a key; 7 models: m0, m1, m2, m3, m4, …; it does not list m, n\n"
    assert report in capsys.readouterr().out
    down = "[providers.down]\nkind = 'ollama'\nbase_url = 'http://127.0.0.1:9'\n"
    (tmp_path / "headrace.toml").write_text(text + down)
    assert main(["check-config", "--online"]) == 1
    out = capsys.readouterr().out
    assert "up: answered" in out
    assert "down: failed: down cannot be reached" in out


CHECKED = """
[models]
default = ""
[providers.up]
kind = "anthropic"
base_url = "URL"
KEY
models = ["a", "b"]
"""


@pytest.mark.parametrize(
    ("key", "played", "text", "code"),
    [
        (
            'api_key = "k"',
            answer({"data": [{"id": "a"}]}),
            "answered, with a key; 1 model: a; it does not list b",
            0,
        ),
        ("", answer({"data": [{"id": "a"}, {"id": "b"}]}), "answered, without a key; 2 models: a, b", 0),
        (
            'api_key = "k"',
            answer({"error": {"type": "authentication_error", "message": "invalid x-api-key"}}, status=401),
            "failed, its key was refused: up: invalid x-api-key",
            1,
        ),
        (
            "",
            answer({}, status=404),
            "failed, there is nothing at its base_url: up has no endpoint /v1/models",
            1,
        ),
        ("", answer([]), "failed: up answered with something that is no list of models", 1),
        ("", Answer(status=0, cut=True), "failed: the connection to up broke", 1),
    ],
)
def test_check_config_online_tells_what_it_found(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, key: str, played: Answer, text: str, code: int
) -> None:
    with scripted() as upstream:
        upstream.always("/v1/models", played)
        (tmp_path / "headrace.toml").write_text(CHECKED.replace("URL", upstream.url).replace("KEY", key))
        assert main(["check-config", "--online"]) == code
    out = capsys.readouterr().out
    assert f"\n# up: {text}" in out


def test_check_config_online_without_providers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-config", "--online"]) == 0
    assert "no providers are configured" in capsys.readouterr().out


def test_module_is_the_same_as_the_command(tmp_path: Path) -> None:
    done = headrace("version", cwd=tmp_path)
    assert (done.returncode, done.stdout.split()[:2]) == (0, ["headrace", __version__])


class Screen(list[str]):
    """A stream that may be a terminal."""

    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        return self.is_terminal

    def write(self, text: str) -> int:
        self.append(text)
        return len(text)

    def flush(self) -> None:
        pass


def progress(screen: Screen) -> str:
    bar = ProgressBar(screen)  # type: ignore[arg-type]  # all of a TextIO that it uses
    for done in range(101):
        bar("fetching", done * 1_000_000, 100_000_000)
    bar("waiting", 0, 0)
    bar("converting", 3, 30)
    bar.close()
    return "".join(screen)


def test_progress_on_a_pipe_is_a_line_every_tenth() -> None:
    text = progress(Screen(False))
    lines = text.splitlines()
    assert len(lines) == 11 + 1 + 1
    assert "\r" not in text
    assert lines[5] == f"fetching [{'#' * 15}{'.' * 15}]  50 %  50.0 of 100.0 MB"
    assert lines[11:] == ["waiting …", f"converting [{'#' * 3}{'.' * 27}]  10 %  3 of 30"]


def test_progress_on_a_terminal_is_one_line_a_task() -> None:
    text = progress(Screen(True))
    assert text.count("\r") == 101 + 2
    assert text.count("\n") == 3
    assert text.endswith("\n")


@pytest.mark.parametrize("columns", [1, 20, 40, 59, 80])
def test_progress_fits_into_a_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    drawn = [line.removesuffix("\x1b[K") for line in progress(Screen(True)).replace("\n", "").split("\r")]
    assert max(map(len, drawn)) <= max(columns - 1, 0)
    if columns >= 40:
        assert any(" 50 %  50.0 of 100.0 MB" in line for line in drawn)


def test_columns_stand_below_one_another_in_every_script(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([("NAME", "N"), ("日本語", "1"), ("é", "22")], right_from=1)
    assert capsys.readouterr().out.splitlines() == ["NAME     N", "日本語   1", "é       22"]
