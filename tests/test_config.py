from __future__ import annotations

import json
import os
import re
from argparse import Namespace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest

from headrace.cli.check import check_config
from headrace.config import Config, Loaded, Option, load, options
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
        "backends": "a=llamacpp",
        "host": "localhost",
        "cors_origins": "https://a.example",
        "otlp_endpoint": "http://127.0.0.1:4318",
        "trusted_proxies": "10.0.0.0/8",
        "no_auth": "1",
        "max_batch_tokens": "64",
        "device": "cuda:1",
    }
    for option in options():
        if get_origin(option.info.annotation) is Literal:
            special[option.name] = get_args(option.info.annotation)[-1]
    environment: dict[str, Any] = {option.variables[0]: special.get(option.name, "1") for option in options()}
    for name in ("API_KEYS", "ADMIN_KEYS", "REQUIRE_AUTH"):  # they contradict no_auth
        del environment[f"HEADRACE_{name}"]
    found = loaded(tmp_path, **environment)
    assert len(found.sources) == len(options()) - 3
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
    ("", {"PORT": "http://me:x@h"}, ("server.port = (secret)", "environment PORT")),
    ("", {"PORT": "high"}, ("server.port = 'high'", "environment PORT", "integer")),
    ("", {"PORT": ""}, ("server.port = ''",)),
    ("", {"PORT": "70000"}, ("server.port = '70000'", "65535")),
    ("", {"LOG_LEVEL": "loud"}, ("server.log_level = 'loud'", "DEBUG", "CRITICAL")),
    ("", {"HOST": ""}, ("server.host",)),
    ("", {"HEADRACE_PROT": "1"}, ("HEADRACE_PROT", "did you mean HEADRACE_PORT")),
    ("", {"HEADRACE_QQQQQQ": "1"}, ("unknown environment variable HEADRACE_QQQQQQ",)),
    ("", {"HEADRACE_NO_AUTH": "perhaps"}, ("server.no_auth = 'perhaps'", "bool")),
    ("", {"HEADRACE_KV_CACHE_BYTES": "lots"}, ("engine.kv_cache_bytes = 'lots'",)),
    ("", {"HEADRACE_DRAIN_SECONDS": "nan"}, ("server.drain_seconds = 'nan'",)),
    ("", {"REQUEST_TIMEOUT_S": "-1"}, ("server.request_timeout_s = '-1'", "REQUEST_TIMEOUT_S")),
    ("", {"HEADRACE_PRECISION": "f16"}, ("engine.precision = 'f16'", "'fast' or 'f32'")),
    ("[server]\nprot = 1\n", {}, ("headrace.toml", "server.prot", "did you mean server.port")),
    ("[sever]\nport = 1\n", {}, ("unknown section [sever]", "server")),
    (
        "[qqq]\n",
        {},
        ("unknown section [qqq]", "known: conversations, engine, limits, models, paths, prices, providers"),
    ),
    ("server = 1\n", {}, ("server is not a section", "[server]")),
    ("port = 1\n", {}, ("unknown section [port]",)),
    ("[engine]\nmax_model_len = '8k'\n", {}, ("engine.max_model_len = '8k'", "headrace.toml")),
    ("[engine]\nmax_num_seqs = 0\n", {}, ("engine.max_num_seqs = 0",)),
    ("[engine]\nmax_queue = true\n", {}, ("engine.max_queue = True",)),
    ("[engine\n", {}, ("headrace.toml cannot be read",)),
    ("[server]\nhost = '0.0.0.0'\n", {}, ("server.host = '0.0.0.0'", "--api-key", "--no-auth")),
    ("", {"HOST": "192.168.0.1"}, ("no API key is set",)),
    ("[server]\ntls_key = 'k'\n", {}, ("server.tls_key needs server.tls_certificate",)),
    ("[server]\nno_auth = true\n", {"ALLOWED_API_KEYS": "k"}, ("server.no_auth", "server.api_keys")),
]


@pytest.mark.parametrize(("toml", "environment", "texts"), MISTAKES)
def test_mistake_stops_the_start_naming_key_value_and_what_is_valid(
    tmp_path: Path, toml: str, environment: dict[str, Any], texts: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError) as raised:
        config(tmp_path, toml, **environment)
    for text in texts:
        assert text in raised.value.message


@pytest.mark.parametrize(
    "environment",
    [
        {"ALLOWED_API_KEYS": "[1, hush"},
        {"ALLOWED_API_KEYS": '["hush", ""]'},
        {"ALLOWED_API_KEYS": "hush", "HEADRACE_API_KEYS": "other"},
        {"HEADRACE_API_KEY": "hush"},
        {"HEADRACE_DATABASE_KEY": "postgresql://me:hush@host/key"},
        {"HEADRACE_SMTP_LOGIN_KEY": "hush"},
        {"HEADRACE_HOST": "key", "HOST": "http://me:hush@host"},
    ],
)
def test_secrets_are_not_shown(tmp_path: Path, environment: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as raised:
        config(tmp_path, **environment)
    assert "hush" not in raised.value.message
    assert "KEY" in raised.value.message.upper()


def test_reachable_address_is_served_with_keys_or_with_no_auth(tmp_path: Path) -> None:
    assert config(tmp_path, HOST="0.0.0.0", ALLOWED_API_KEYS="k").server.api_keys == ("k",)
    assert config(tmp_path, HOST="0.0.0.0", HEADRACE_ADMIN_KEYS="k").server.needs_key
    assert config(tmp_path, HOST="0.0.0.0", REQUIRE_AUTH="true").server.takes_stored_keys
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


ONE = """
[providers.up-1]
kind = "openai"
base_url = "http://127.0.0.1:9001/v1"
api_key = "env:UP_KEY"
headers = { X-Team = "hush-team" }
timeout_s = 5
models = ["a", "b"]
"""


def test_providers_are_read_with_their_keys_resolved(tmp_path: Path) -> None:
    found = loaded(tmp_path, ONE, UP_KEY=" hush-key\n")
    provider = found.config.providers["up-1"]
    assert (provider.kind, provider.api_key, provider.timeout_s) == ("openai", "hush-key", 5)
    assert (provider.models, provider.prefix) == (("a", "b"), True)
    assert found.sources["providers.up-1"].endswith("headrace.toml")
    assert "hush" not in repr(found.config)


def test_key_is_read_from_a_file_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("hush\n")
    for path in ("key", tmp_path / "key"):
        text = f"[providers.x]\nkind = 'anthropic'\napi_key = 'file:{path}'\n"
        assert config(tmp_path, text).providers["x"].api_key == "hush"
    assert config(tmp_path, "[providers.x]\nkind='fake'\napi_key='sk:1'\n").providers["x"].api_key == "sk:1"


def test_routes_are_read_with_their_targets(tmp_path: Path) -> None:
    routes = """
[routes."gpt-4.1"]
targets = ["m", "up-1:x:8b", { target = "headrace:m", weight = 2 }]
fallback_on = [429, "5xx", "context"]
hedge_after_ms = 300
[routes.plain]
targets = ["m"]
"""
    found = config(tmp_path, ONE + routes, UP_KEY="k").routes
    route = found["gpt-4.1"]
    assert [(target.target, target.weight) for target in route.targets] == [
        ("m", None),
        ("up-1:x:8b", None),
        ("headrace:m", 2),
    ]
    assert (route.fallback_on, route.hedge_after_ms) == (("429", "5xx", "context"), 300)
    assert found["plain"].fallback_on == ("connection", "408", "429", "5xx", "overloaded")


FAKE = "[providers.up]\nkind = 'fake'\n"
OLLAMA = "[providers.up]\nkind = 'ollama'\n"
TABLE_MISTAKES: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("providers = 1\n", {}, ("providers is not a section", "[providers]")),
    ("[providers]\nup = 1\n", {}, ("providers.up is not a section", "[providers.up]")),
    ("[providers.Up]\nkind = 'fake'\n", {}, ("[providers.Up]", "lower-case", "headrace.toml")),
    ("[providers.headrace]\nkind = 'fake'\n", {}, ("[providers.headrace]", "taken")),
    ("[providers.v1]\nkind = 'fake'\n", {}, ("[providers.v1]", "taken")),
    ("[providers.up]\n", {}, ("providers.up.kind", "not given", "headrace.toml")),
    (
        "[providers.up]\nkind = 'ollama'\nreplicas = ['http://a']\n",
        {},
        ("providers.up.replicas", "'ollama' does not have it"),
    ),
    (
        "[providers.up]\nkind = 'openai'\nreplicas = ['http://a/v1', 'http://a/v1/']\n",
        {},
        ("providers.up.replicas", "http://a/v1 is named twice"),
    ),
    (
        "[providers.up]\nkind = 'openai'\nbase_url = 'http://a'\nreplicas = ['http://b']\n",
        {},
        ("providers.up.base_url", "contradicts providers.up.replicas"),
    ),
    (
        "[providers.up]\nkind = 'openai'\nreplicas = ['a:8000']\n",
        {},
        ("providers.up.replicas", "whole address"),
    ),
    ("[providers.up]\nkind = 'opnai'\n", {}, ("providers.up.kind = 'opnai'", "'openai'", "'ollama'")),
    (FAKE + "bas_url = 'x'\n", {}, ("providers.up.bas_url", "did you mean base_url")),
    (FAKE + "base_url = 'host:1'\n", {}, ("providers.up.base_url = 'host:1'", "http://HOST:PORT/v1")),
    (FAKE + "base_url = 'http://h:port'\n", {}, ("providers.up.base_url", "'port'")),
    (FAKE + "base_url = 'http://h/?a=1'\n", {}, ("providers.up.base_url", "no ?")),
    (FAKE + "base_url = 'http://h/v1?'\n", {}, ("providers.up.base_url", "no ?")),
    (FAKE + "base_url = 'http://h/v1#'\n", {}, ("providers.up.base_url", "no #")),
    (FAKE + "base_url = 'http://me:x@h/v1'\n", {}, ("base_url = (secret)", "use api_key or headers")),
    (FAKE + "base_url = 'http://me@h/v1'\n", {}, ("base_url = (secret)", "use api_key or headers")),
    (FAKE + "keep_alive = 5\n", {}, ("providers.up.keep_alive = 5", "'fake' does not have it")),
    (OLLAMA + "keep_alive = true\n", {}, ("keep_alive = True", 'a duration as "5m"')),
    (OLLAMA + "keep_alive = '5'\n", {}, ("keep_alive = '5'", 'a duration as "5m"')),
    (
        "",
        {"ANTHROPIC_API_KEY": "k", "ANTHROPIC_BASE_URL": "h"},
        ("ANTHROPIC_BASE_URL = 'h'", "whole address"),
    ),
    *(
        ("", {"CEREBRAS_API_KEY": "k", "ANTHROPIC_API_KEY": "k", name: url}, (f"{name} = (secret)",))
        for name in ("CEREBRAS_BASE_URL", "ANTHROPIC_BASE_URL", "OLLAMA_HOST", "OLLAMA_BASE_URL")
        for url in ("http://me:x@h", "https://me@h/v1")
    ),
    ("", {"OLLAMA_HOST": "me:x@h:1"}, ("OLLAMA_HOST = (secret)",)),
    (FAKE + "timeout_s = 0\n", {}, ("providers.up.timeout_s = 0", "greater than 0")),
    (FAKE + "models = ['']\n", {}, ("providers.up.models.0 = ''",)),
    (FAKE + "api_key = 'env:NO'\n", {}, ("providers.up.api_key = 'env:NO'", "environment has no NO")),
    (FAKE + "api_key = 'env:NO'\n", {"NO": " "}, ("environment has no NO",)),
    (FAKE + "api_key = 'file:no'\n", {}, ("providers.up.api_key = 'file:no'", "cannot be read: No such")),
    (FAKE + "api_key = 'file:/dev/zero'\n", {}, ("providers.up.api_key", "cannot be read: File too large")),
    (FAKE + "api_key = 'file:/'\n", {}, ("providers.up.api_key", "cannot be read: Is a directory")),
    ("[routes.r]\n", {}, ("routes.r.targets", "not given")),
    ("[routes.r]\ntargets = []\n", {}, ("routes.r.targets = []",)),
    ("[routes.r]\ntargets = ['m', 'm']\n", {}, ("routes.r.targets", "'m' is named twice")),
    ("[routes.r]\ntargts = ['m']\n", {}, ("routes.r.targts", "did you mean targets")),
    ("[routes.r]\ntargets = [{target = 'm', weight = 0}]\n", {}, ("routes.r.targets.0.weight = 0",)),
    ("[routes.r]\ntargets = [{target = 'm', wight = 1}]\n", {}, ("routes.r.targets.0.wight = (secret)",)),
    ("[routes.r]\ntargets = ['m']\nfallback_on = ['404']\n", {}, ("routes.r.fallback_on.0 = '404'", "'429'")),
    ("[routes.r]\ntargets = ['m']\nretries = -1\n", {}, ("routes.r.retries = -1",)),
    ("[routes.'a b']\ntargets = ['m']\n", {}, ("[routes.a b]", "no spaces")),
    (FAKE + "[routes.r]\ntargets = ['ub:m']\n", {}, ("targets.0 = 'ub:m'", "no provider 'ub'", "up")),
    ("[provider.x]\n", {}, ("unknown section [provider]", "did you mean providers")),
    ("", {"OLLAMA_HOST": "http://h:x"}, ("OLLAMA_HOST = 'http://h:x'",)),
    (
        "",
        {"OLLAMA_HOST": "a", "OLLAMA_BASE_URL": "b"},
        ("OLLAMA_HOST = 'a'", "OLLAMA_BASE_URL = 'b'", "keep one"),
    ),
    ("", {"CEREBRAS_API_KEY": "k", "CEREBRAS_BASE_URL": "ftp://h"}, ("CEREBRAS_BASE_URL = 'ftp://h'",)),
]


@pytest.mark.parametrize(("toml", "environment", "texts"), TABLE_MISTAKES)
def test_mistake_in_a_table_stops_the_start(
    tmp_path: Path, toml: str, environment: dict[str, Any], texts: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError) as raised:
        config(tmp_path, toml, **environment)
    for text in texts:
        assert text in raised.value.message


@pytest.mark.parametrize(
    "members",
    [
        "api_key = ['hush']",
        "headers = { a = 1, b = 'hush' }",
        "headers = ['hush']",
        "base_url = 'http://me:hush@host/v1'",
        "api_kee = 'hush'",
    ],
)
def test_secrets_of_providers_are_not_shown(tmp_path: Path, members: str) -> None:
    with pytest.raises(ConfigError) as raised:
        config(tmp_path, FAKE + members + "\n")
    assert "hush" not in raised.value.message
    assert raised.value.__cause__ is None


def from_environment(**environment: str) -> Config:
    return load(flags={}, environment=environment, file=None).config


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("127.0.0.1:11434", "http://127.0.0.1:11434"),
        ("gpu-box", "http://gpu-box:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        (":9000", "http://127.0.0.1:9000"),
        ("[::1]:9000", "http://[::1]:9000"),
        ("https://ollama.example/", "https://ollama.example"),
        ("http://0.0.0.0:1", "http://127.0.0.1:1"),
    ],
)
def test_ollama_is_found_where_its_own_programs_find_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, url: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("OLLAMA_HOST", "OLLAMA_BASE_URL"):
        found = from_environment(**{name: value})
        assert (found.providers["ollama"].kind, found.providers["ollama"].base_url) == ("ollama", url)
    both = from_environment(OLLAMA_HOST=value, OLLAMA_BASE_URL=url)
    assert list(both.providers) == ["ollama"]


def test_keys_in_the_environment_configure_their_providers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert from_environment(CEREBRAS_BASE_URL="https://c.example", ANTHROPIC_API_KEY=" ").providers == {}
    found = from_environment(ANTHROPIC_API_KEY="a", CEREBRAS_API_KEY="c").providers
    assert [(name, p.kind, p.api_key, p.base_url) for name, p in found.items()] == [
        ("anthropic", "anthropic", "a", None),
        ("cerebras", "cerebras", "c", None),
    ]
    for url in ("https://c.example", "https://c.example/v1/"):
        found = from_environment(CEREBRAS_API_KEY="c", CEREBRAS_BASE_URL=url).providers
        assert found["cerebras"].base_url == "https://c.example/v1"
    url = "https://a.example/"
    assert from_environment(ANTHROPIC_BASE_URL=url).providers == {}
    found = from_environment(ANTHROPIC_API_KEY="a", ANTHROPIC_BASE_URL=url).providers
    assert found["anthropic"].base_url == "https://a.example"


@pytest.mark.parametrize(
    ("value", "expected"), [("-1", -1), ("0", 0), ("90.5", 90.5), ("'1h30m'", "1h30m"), ("'-1s'", "-1s")]
)
def test_keep_alive_is_what_ollama_reads(tmp_path: Path, value: str, expected: float | str) -> None:
    assert config(tmp_path, f"{OLLAMA}keep_alive = {value}\n").providers["up"].keep_alive == expected


def test_providers_in_the_file_replace_those_of_the_environment(tmp_path: Path) -> None:
    assert list(config(tmp_path, FAKE, ANTHROPIC_API_KEY="a").providers) == ["up"]
    assert list(config(tmp_path, "[server]\nport = 1\n", ANTHROPIC_API_KEY="a").providers) == ["anthropic"]


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        ("", "providers.big.path = (not given)"),
        ('path = "m.gguf"\nbase_url = "http://x/v1"', "providers.big.base_url = 'http://x/v1'"),
        ('path = "m.gguf"\napi_key = "sk-secret-key"', "providers.big.api_key = (secret)"),
    ],
)
def test_llama_cpp_has_a_file_and_no_address(tmp_path: Path, member: str, reason: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config(tmp_path, f'[providers.big]\nkind = "llamacpp"\n{member}\n')
    assert reason in refused.value.message


def test_documented_configurations_are_valid(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "routing.md").read_text()
    (tmp_path / "other.key").write_text("k")
    keys: dict[str, Any] = {f"{name}_API_KEY": "k" for name in ("VLLM", "OPENROUTER", "CEREBRAS")}
    examples = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert len(examples) > 1
    found = [config(tmp_path, example, None, **keys).providers for example in examples]
    assert found[0]["openrouter"].headers == {"HTTP-Referer": "https://example.org", "X-Title": "Example"}
    assert found[0]["big"].path == "/models/big.gguf"


def test_only_llama_cpp_has_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"providers\.up\.path = 'm\.gguf'.*'openai' does not have it"):
        config(tmp_path, '[providers.up]\nkind = "openai"\npath = "m.gguf"\n')


def test_origins_of_pages_have_no_path(tmp_path: Path) -> None:
    found = loaded(tmp_path, CORS_ORIGINS="https://a.example,http://localhost:5173")
    assert found.config.server.cors_origins == ("https://a.example", "http://localhost:5173")
    for wrong in ("https://a.example/", "a.example", "https://*.example"):
        with pytest.raises(ConfigError, match="without a path"):
            loaded(tmp_path, CORS_ORIGINS=wrong)


SECRETS = [option for option in options() if option.names.is_secret]
HUSH = {"store.url": "postgresql://me:hush@host/name", "limits.redis_url": "redis://:hush@host:6379/0"}


@pytest.mark.parametrize("option", SECRETS, ids=lambda option: str(option.key))
def test_every_secret_may_stand_elsewhere_and_is_never_shown(
    tmp_path: Path, option: Option, capsys: pytest.CaptureFixture[str]
) -> None:
    value = HUSH.get(option.key, "hush")
    (tmp_path / "secret").write_text(f"{value}\n")
    for reference in ("env:NAMED", "file:secret"):
        text = json.dumps([reference] if option.is_list else reference)
        found = loaded(tmp_path, f"[{option.section}]\n{option.name} = {text}\n", NAMED=value)
        section = getattr(found.config, option.section)
        assert getattr(section, option.name) == ((value,) if option.is_list else value)
        assert "hush" not in repr(found) + str(found.config)
        check_config(Namespace(online=False), found)
        assert "hush" not in capsys.readouterr().out
    for reference, reason in (("env:NONE", "has no NONE"), ("file:none", "cannot be read: No such file")):
        environment: dict[str, Any] = {option.variables[0]: reference}
        with pytest.raises(ConfigError, match=reason) as raised:
            config(tmp_path, **environment)
        assert option.key in raised.value.message


@pytest.mark.parametrize("text", ["sk-hush\nsk-other", "sk-hush\r\n\r\nx", "a\u2028b"])
def test_a_secret_of_several_lines_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(f"{text}\n")
    for reference in (f"file:{tmp_path / 'key'}", "env:KEY"):
        variables: dict[str, Any] = {"HEADRACE_API_KEYS": reference, "KEY": text}
        with pytest.raises(ConfigError, match="several lines") as raised:
            config(tmp_path, **variables)
        assert "hush" not in raised.value.message


def test_a_byte_order_mark_is_no_part_of_a_secret(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("\ufeffhush\r\n")
    variables: dict[str, Any] = {"HEADRACE_API_KEYS": f"file:{tmp_path / 'key'}"}
    assert config(tmp_path, **variables).server.api_keys == ("hush",)


@pytest.mark.parametrize("file", ["/dev/zero", "/", "loop", "pipe", "link"])
def test_a_file_that_is_none_is_refused(tmp_path: Path, file: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    with pytest.raises(ConfigError, match=f"{file} cannot be read: "):
        load(flags={}, environment={}, file=tmp_path / file)


def test_a_pipe_without_a_name_is_read() -> None:
    """As a shell's `--config <(command)`."""
    read, write = os.pipe()
    os.write(write, b"[server]\nport = 9\n")
    os.close(write)
    try:
        assert load(flags={}, environment={}, file=Path(f"/dev/fd/{read}")).config.server.port == 9
    finally:
        os.close(read)


def test_headers_of_providers_may_stand_elsewhere(tmp_path: Path) -> None:
    toml = ONE.replace('"hush-team"', '"env:TEAM"')
    provider = config(tmp_path, toml, UP_KEY="hush", TEAM="hush-team").providers["up-1"]
    assert provider.headers == {"X-Team": "hush-team"}


def test_a_path_outside_the_file_starts_at_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text("hush")
    monkeypatch.chdir(tmp_path)
    found = load(flags={"server.api_keys": ["file:key"]}, environment={}, file=None)
    assert found.config.server.api_keys == ("hush",)


@pytest.mark.parametrize("network", ["10.0.0.7", "10.1.2.3/8", "::1"])
def test_proxies_are_addresses_and_networks(tmp_path: Path, network: str) -> None:
    assert config(tmp_path, HEADRACE_TRUSTED_PROXIES=network).server.trusted_proxies[0].count("/") == 1
    with pytest.raises(ConfigError, match="trusted_proxies"):
        config(tmp_path, HEADRACE_TRUSTED_PROXIES=f"{network}x")
