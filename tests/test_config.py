from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from headrace.config import Config, Loaded, load, options
from headrace.errors import ConfigError


def loaded(
    tmp_path: Path, toml: str = "", flags: dict[str, object] | None = None, **environment: str
) -> Loaded:
    file = tmp_path / "headrace.toml"
    file.write_text(toml)
    return load(flags=flags or {}, environment=environment, file=file)


def config(
    tmp_path: Path, toml: str = "", flags: dict[str, object] | None = None, **environment: str
) -> Config:
    return loaded(tmp_path, toml, flags, **environment).config


def test_defaults_are_those_of_the_contract(tmp_path: Path) -> None:
    server, models = config(tmp_path).server, config(tmp_path).models
    assert (server.host, server.port, server.api_keys, server.log_level) == ("127.0.0.1", 8000, (), "INFO")
    assert models.default == "smollm2-135m-instruct"
    assert config(tmp_path).paths.cache.is_absolute()
    assert server.request_timeout_s == 600


def test_flags_go_before_environment_before_file_before_defaults(tmp_path: Path) -> None:
    toml = "[server]\nport = 1\n[engine]\nmax_queue = 2\nmax_num_seqs = 3\n"
    found = loaded(tmp_path, toml, {"server.port": "7"}, PORT="8", HEADRACE_MAX_QUEUE="9")
    assert (found.config.server.port, found.config.engine.max_queue) == (7, 9)
    assert (found.config.engine.max_num_seqs, found.config.engine.max_model_len) == (3, 0)
    assert found.sources["server.port"] == "flag"
    assert found.sources["engine.max_queue"] == "environment HEADRACE_MAX_QUEUE"
    assert found.sources["engine.max_num_seqs"].endswith("headrace.toml")
    assert "engine.max_model_len" not in found.sources


def test_common_aliases_are_read(tmp_path: Path) -> None:
    aliases: dict[str, Any] = {"HOST": "::1", "PORT": "9000", "LOG_LEVEL": "warning", "MODEL_PATH": "/m.gguf"}
    found = config(tmp_path, ALLOWED_API_KEYS="a, b,,c", **aliases)
    assert (found.server.host, found.server.port, found.server.log_level) == ("::1", 9000, "WARNING")
    assert (found.models.default, found.server.api_keys) == ("/m.gguf", ("a", "b", "c"))
    assert config(tmp_path, REQUEST_TIMEOUT_S="1.5").server.request_timeout_s == 1.5


@pytest.mark.parametrize(
    ("text", "keys"), [("", ()), (" ", ()), ("[]", ()), ("one", ("one",)), ('["a,b", "c"]', ("a,b", "c"))]
)
def test_keys_are_comma_separated_json_or_none(tmp_path: Path, text: str, keys: tuple[str, ...]) -> None:
    assert config(tmp_path, ALLOWED_API_KEYS=text).server.api_keys == keys
    assert config(tmp_path, HEADRACE_API_KEYS=text).server.api_keys == keys


def test_every_option_is_read_from_the_environment(tmp_path: Path) -> None:
    special = {
        "cache": "/c",
        "data": "/d",
        "default": "m",
        "more": "a,b",
        "tool_formats": "a=hermes",
        "host": "localhost",
        "no_auth": "1",
    }
    special |= {
        "log_level": "ERROR",
        "precision": "f32",
        "generation_config": "none",
        "max_batch_tokens": "64",
    }
    environment: dict[str, Any] = {option.variables[0]: special.get(option.name, "1") for option in options()}
    del environment["HEADRACE_API_KEYS"]  # it contradicts no_auth
    found = loaded(tmp_path, **environment)
    assert len(found.sources) == len(options()) - 1
    assert (found.config.paths.cache, found.config.server.strict) == (Path("/c"), True)
    assert found.config.models.more == ("a", "b")


def test_sizes_have_units(tmp_path: Path) -> None:
    assert config(tmp_path, "[engine]\nkv_cache_bytes = '2GiB'\n").engine.kv_cache_bytes == 2**31
    assert config(tmp_path, HEADRACE_MAX_BODY_BYTES="1MB").server.max_body_bytes == 10**6


def test_aliases_that_agree_are_fine(tmp_path: Path) -> None:
    assert config(tmp_path, PORT="9000", HEADRACE_PORT="9000").server.port == 9000
    assert config(tmp_path, LOG_LEVEL="debug", HEADRACE_LOG_LEVEL="DEBUG").server.log_level == "DEBUG"
    assert config(tmp_path, ALLOWED_API_KEYS="a,b", HEADRACE_API_KEYS='["a", "b"]').server.api_keys == (
        "a",
        "b",
    )


MISTAKES: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("", {"PORT": "1", "HEADRACE_PORT": "2"}, ("server.port", "PORT = '1'", "HEADRACE_PORT = '2'")),
    ("", {"PORT": "high"}, ("server.port = 'high'", "environment PORT", "integer")),
    ("", {"PORT": ""}, ("server.port = ''",)),
    ("", {"PORT": "70000"}, ("server.port = '70000'", "65535")),
    ("", {"LOG_LEVEL": "loud"}, ("server.log_level = 'loud'", "DEBUG", "CRITICAL")),
    ("", {"HOST": ""}, ("server.host",)),
    ("", {"HEADRACE_PROT": "1"}, ("HEADRACE_PROT = '1'", "did you mean HEADRACE_PORT")),
    ("", {"HEADRACE_QQQQQQ": "1"}, ("unknown environment variable HEADRACE_QQQQQQ = '1'",)),
    ("", {"HEADRACE_NO_AUTH": "perhaps"}, ("server.no_auth = 'perhaps'", "bool")),
    ("", {"HEADRACE_KV_CACHE_BYTES": "lots"}, ("engine.kv_cache_bytes = 'lots'",)),
    ("", {"HEADRACE_DRAIN_SECONDS": "nan"}, ("server.drain_seconds = 'nan'",)),
    ("", {"REQUEST_TIMEOUT_S": "-1"}, ("server.request_timeout_s = '-1'", "REQUEST_TIMEOUT_S")),
    ("", {"HEADRACE_PRECISION": "f16"}, ("engine.precision = 'f16'", "'fast' or 'f32'")),
    ("[server]\nprot = 1\n", {}, ("headrace.toml", "server.prot = 1", "did you mean server.port")),
    ("[sever]\nport = 1\n", {}, ("unknown section [sever]", "server")),
    ("[qqq]\n", {}, ("unknown section [qqq]", "known: engine, models, paths, providers, routes, server")),
    ("server = 1\n", {}, ("server = 1", "[server]")),
    ("port = 1\n", {}, ("unknown section [port]",)),
    ("[engine]\nmax_model_len = '8k'\n", {}, ("engine.max_model_len = '8k'", "headrace.toml")),
    ("[engine]\nmax_num_seqs = 0\n", {}, ("engine.max_num_seqs = 0",)),
    ("[engine]\nmax_queue = true\n", {}, ("engine.max_queue = True",)),
    ("[engine\n", {}, ("headrace.toml cannot be read",)),
    ("[server]\nhost = '0.0.0.0'\n", {}, ("server.host = '0.0.0.0'", "--api-key", "--no-auth")),
    ("", {"HOST": "192.168.0.1"}, ("no API key is set",)),
    ("[server]\nno_auth = true\n", {"ALLOWED_API_KEYS": "k"}, ("server.no_auth", "server.api_keys")),
]


@pytest.mark.parametrize(("toml", "environment", "said"), MISTAKES)
def test_mistake_stops_the_start_naming_key_value_and_what_is_valid(
    tmp_path: Path, toml: str, environment: dict[str, Any], said: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError) as raised:
        config(tmp_path, toml, **environment)
    for words in said:
        assert words in raised.value.message


@pytest.mark.parametrize(
    "environment",
    [
        {"ALLOWED_API_KEYS": "[1, hush"},
        {"ALLOWED_API_KEYS": '["hush", ""]'},
        {"ALLOWED_API_KEYS": "hush", "HEADRACE_API_KEYS": "other"},
        {"HEADRACE_API_KEY": "hush"},
    ],
)
def test_secrets_are_not_shown(tmp_path: Path, environment: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as raised:
        config(tmp_path, **environment)
    assert "hush" not in raised.value.message
    assert "KEY" in raised.value.message.upper()


def test_reachable_address_is_served_with_keys_or_said_openness(tmp_path: Path) -> None:
    assert config(tmp_path, HOST="0.0.0.0", ALLOWED_API_KEYS="k").server.api_keys == ("k",)
    assert config(tmp_path, HOST="0.0.0.0", HEADRACE_NO_AUTH="true").server.no_auth
    for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        assert config(tmp_path, HOST=host).server.host == host


def test_file_is_named_by_flag_or_environment_and_must_exist(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text("[server]\nport = 5\n")
    found = load(flags={}, environment={"HEADRACE_CONFIG": str(file)}, file=None)
    assert found.config.server.port == 5
    with pytest.raises(ConfigError, match="does not exist"):
        load(flags={}, environment={}, file=tmp_path / "none.toml")
