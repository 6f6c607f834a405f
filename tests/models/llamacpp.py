"""llama.cpp's own server, from the `xllamacpp` wheel: an oracle for our tokenizer, and a provider.

It runs in a process of its own: in one with OpenVINO it has been seen to hang.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from pathlib import Path

SERVER = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx, params.n_parallel, params.warmup, params.port = int(sys.argv[2]), 1, False, 0
params.chat_template = sys.argv[3]
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)
print("address", server.listening_address, flush=True)
sys.stdin.read()
"""


class LlamaCpp:
    """On a free loopback port, at `url`. `chat_template`: instead of the file's own."""

    def __init__(self, gguf: Path, *, context: int = 64, chat_template: str = "") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(gguf), str(context), chat_template],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        address = next(line for line in self._process.stdout if line.startswith("address "))
        self.url = address.strip().removeprefix("address ")
        self._connection = http.client.HTTPConnection(self.url.removeprefix("http://"))

    def tokenize(self, text: str) -> list[int]:
        """As ordinary text: no token is added and none is read out of the text."""
        body = json.dumps({"content": text, "add_special": False, "parse_special": False})
        self._connection.request("POST", "/tokenize", body, {"Content-Type": "application/json"})
        tokens: list[int] = json.load(self._connection.getresponse())["tokens"]
        return tokens

    def likely(self, prompt: str, count: int) -> tuple[int, list[float]]:
        """The number of the prompt's tokens, and the log probabilities of the likeliest next ones."""
        body = {"prompt": prompt, "n_predict": 1, "n_probs": count, "temperature": 0}
        self._connection.request(
            "POST", "/completion", json.dumps(body), {"Content-Type": "application/json"}
        )
        answer = json.load(self._connection.getresponse())
        (first,) = answer["completion_probabilities"]
        return answer["tokens_evaluated"], [each["logprob"] for each in first["top_logprobs"]]

    def close(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.communicate()
