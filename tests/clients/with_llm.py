"""simonw's llm on the command line, as its documentation says: extra-openai-models.yaml in its own folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from turns import BASE_URL, MODEL, QUESTION, URL, run, turn

from examples import examples

MODELS, COMMANDS = examples("llm", "yaml", URL), examples("llm", "sh", URL)
COMPLETION = f"""
- model_id: headrace-completion
  model_name: {MODEL}
  api_base: {BASE_URL}
  completion: true
"""
TOOL = '''
def get_weather(city: str) -> str:
    """The weather in a city"""
    return "22 degrees"
'''
GREEDY = ("-o", "temperature", "0", "-o", "max_tokens", "60")


def llm(*arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, "-m", "llm", *arguments], capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def ask(*arguments: str) -> str:
    return llm("prompt", "--model", "headrace", *GREEDY, *arguments)


@turn("a prompt, streamed and not")
def plain() -> None:
    text = ask(QUESTION)
    assert text
    assert ask(QUESTION, "--no-stream") == text


@turn("a conversation that goes on")
def conversation() -> None:
    assert ask("Hi", "--continue")


@turn("a schema")
def structured() -> None:
    schema = {
        "type": "object",
        "properties": {"color": {"enum": ["red", "green", "blue"]}},
        "required": ["color"],
        "additionalProperties": False,
    }
    for mode in ("--no-stream", "--async"):
        assert set(json.loads(ask(QUESTION, "--schema", json.dumps(schema), mode))) == {"color"}


@turn("tools")
def tools() -> None:
    """It leaves the choice to the model."""
    assert ask("What is the weather in Paris?", "--functions", TOOL, "--chain-limit", "2") is not None


@turn("completions")
def completions() -> None:
    assert llm("prompt", "--model", "headrace-completion", *GREEDY, "The capital of France is")


@turn("the example of the documentation")
def documented() -> None:
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    subprocess.run(["sh", "-e"], input=COMMANDS[0], text=True, check=True, env=os.environ | {"PATH": path})


if __name__ == "__main__":
    home = Path(os.environ["LLM_USER_PATH"])
    home.mkdir(parents=True, exist_ok=True)
    (home / "extra-openai-models.yaml").write_text(MODELS[0] + COMPLETION)
    run()
