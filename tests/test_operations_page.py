"""The examples of docs/operations.md work: its requests against a server, its commands, its configuration."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

from headrace.app import create_app
from headrace.backends.fake import FakeBackend
from headrace.cli.arguments import parsed
from headrace.config import Config, load
from tests.pages import blocks
from tests.serving import serving

CURL = re.compile(r"^curl .*?(?<!\\)$", re.M | re.S)


def test_its_requests_are_answered() -> None:
    config = Config.model_validate({"server": {"admin_keys": ["boss"]}})
    with serving(create_app(config, [FakeBackend(["x"])])) as server:
        commands = CURL.findall(blocks("operations.md", "sh", server.url))
        assert len(commands) == 2
        made, usage = (
            subprocess.run(
                ["bash", "-c", command], capture_output=True, text=True, timeout=60,
                env={**os.environ, "ADMIN_KEY": "boss", "KEY": "boss"},
            )
            for command in commands
        )  # fmt: skip
        assert json.loads(made.stdout)["limits"]["tokens_per_minute"] == 20_000
        assert json.loads(usage.stdout)["object"] == "page"


def test_its_commands_are_understood(tmp_path: Path) -> None:
    text = blocks("operations.md", "sh", "http://127.0.0.1:8000")
    commands = [line for line in text.splitlines() if line.startswith("headrace ")]
    assert len(commands) >= 7
    for command in commands:
        assert parsed(shlex.split(command)[1:]).run is not None


def test_its_configuration_is_read(tmp_path: Path) -> None:
    file = tmp_path / "headrace.toml"
    file.write_text(blocks("operations.md", "toml", "http://127.0.0.1:8000"))
    prices = load(flags={}, environment={}, file=file).config.prices
    assert prices.keys() == tomllib.loads(file.read_text())["prices"].keys() == {"openai:gpt-5"}
